//! Bugs that the simulator plants to measure itself: in this crate, and in the models that stand for adapters. Without the feature `mutants` every switch is the constant `false`.

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// The participant ignores the floor of a scope.
    NoFence,
    /// Adoption goes on without a barrier.
    NoBarrier,
    /// Renewing a lease does not extend it.
    RenewDoesNotExtend,
    /// The head, and the claims and addresses that go with it, are written whatever their revisions.
    HeadWithoutCas,
    /// The lease and the record are no part of the commit batch.
    LeaseNotInCommit,
    /// Ensuring an instance makes one under a fresh name without looking.
    StepNotIdempotent,
    /// A failed readiness aborts without undoing.
    UndoSkipped,
    /// A lost acknowledgement of the commit counts as a refusal.
    UnknownIsFailed,
    /// A restarted participant forgets what its journal names.
    JournalNotSettled,
    /// A step that is due with all places taken wakes its operation at once.
    SpinsWhenFull,
    /// A fenced change whose answer was lost is not settled.
    FencedNotSettled,
    /// What a torn commit batch left is not looked for before it is given up.
    TornCommitForgotten,
    /// The lowest free address is drawn, also if it was left a moment ago.
    AddressesUsedAgain,
    /// An abort keeps the claims that a torn commit batch left.
    AbortKeepsClaims,
    /// What was replaced goes before gateways have heard of it.
    CleanUpBeforeRoutes,
    /// Instances of every rollout stop before their successors start.
    StopsFirst,
    /// The participant acts before its fence file is written.
    ActsBeforePersist,
    /// A fence file that was refused counts as written.
    RefusedFileWritten,
    /// A settling that failed counts as done.
    FailedIsSettled,
    /// A refusal by the fence counts as done.
    StaleIsDone,
    /// Another operation of the scope that is unfinished is nobody's business.
    UnfinishedIgnored,
    /// Every instance counts as ready.
    ReadinessSkipped,
    /// A removed namespace is served on.
    RemovalNotServed,
    /// What has committed can be aborted.
    AbortsTheCommitted,
    /// A head that moved while the lease was taken is not noticed.
    HeadNotRechecked,
    /// An abort gives up claims also if the head has moved, and they are the head's.
    AbortTakesClaims,
    /// An instance that its runtime has started again is kept, whatever is wanted.
    KeepsWhatWasRestarted,
    /// A record that came back is run again, though the head has moved on since it committed.
    HistoryGoesOn,
    /// What an earlier commit was made for counts as done.
    SaysDoneTooSoon,
    /// What an earlier commit was made for counts as done by that one.
    DoneByAnEarlier,
    /// What a namespace takes on its machines is committed as it was before.
    AllocationAsFound,
    /// A restart renews the first slot only.
    RestartsOne,
    /// Of a route only the first host name is served.
    FirstNameOnly,
    /// What was replaced goes without being drained.
    DrainSkipped,
    /// Every machine has room for everything.
    NoRoomCheck,
    /// What another namespace has reserved since the plan was made is not looked at.
    CapacityNotRechecked,
    /// New instances go to the first machine that is allowed.
    NoSpread,
    /// A service with one instance on each machine leaves the last one out.
    GlobalMissesOne,
    /// What is recreated starts before what was there has stopped.
    RecreateOverlaps,
    /// Steps are undone in any order.
    UndoneInAnyOrder,
    /// Of two unfinished operations of a namespace the one that gives way is ended without an undo.
    GivesWayAsItIs,
    /// What was stopped is started again beside what another unfinished operation runs in its place.
    StartsBesideAnother,
    /// An undo starts again what no commit has any more.
    StartsWhatIsGone,
    /// What has settled stays in the journal.
    JournalGrows,
    /// Records of operations that are over never end.
    RecordsForEver,
    /// Claims that were given up never end.
    ClaimsForEver,
    /// An adapter: the fence file is said to be written, and is not there after a restart.
    FenceFileLost,
    /// An adapter: a gateway is said to serve what it has not heard of yet.
    RoutesSaidTooSoon,
    /// An adapter: a change is said to be settled that may still land.
    SettlesTooSoon,
    /// An adapter: the store takes a write that expects an older revision.
    StaleWriteTaken,
    /// An adapter: keys of the store outlive their lives.
    LivesIgnored,
}

impl Mutant {
    /// All of them, with the names that `ployz-sim mutants` takes.
    pub const ALL: [(Self, &'static str); 51] = [
        (Self::NoFence, "no_fence"),
        (Self::NoBarrier, "no_barrier"),
        (Self::RenewDoesNotExtend, "renew_does_not_extend"),
        (Self::HeadWithoutCas, "head_without_cas"),
        (Self::LeaseNotInCommit, "lease_not_in_commit"),
        (Self::StepNotIdempotent, "step_not_idempotent"),
        (Self::UndoSkipped, "undo_skipped"),
        (Self::UnknownIsFailed, "unknown_is_failed"),
        (Self::JournalNotSettled, "journal_not_settled"),
        (Self::SpinsWhenFull, "spins_when_full"),
        (Self::FencedNotSettled, "fenced_not_settled"),
        (Self::TornCommitForgotten, "torn_commit_forgotten"),
        (Self::AddressesUsedAgain, "addresses_used_again"),
        (Self::AbortKeepsClaims, "abort_keeps_claims"),
        (Self::CleanUpBeforeRoutes, "clean_up_before_routes"),
        (Self::StopsFirst, "stops_first"),
        (Self::ActsBeforePersist, "acts_before_persist"),
        (Self::RefusedFileWritten, "refused_file_written"),
        (Self::FailedIsSettled, "failed_is_settled"),
        (Self::StaleIsDone, "stale_is_done"),
        (Self::UnfinishedIgnored, "unfinished_ignored"),
        (Self::ReadinessSkipped, "readiness_skipped"),
        (Self::RemovalNotServed, "removal_not_served"),
        (Self::AbortsTheCommitted, "aborts_the_committed"),
        (Self::HeadNotRechecked, "head_not_rechecked"),
        (Self::AbortTakesClaims, "abort_takes_claims"),
        (Self::KeepsWhatWasRestarted, "keeps_what_was_restarted"),
        (Self::HistoryGoesOn, "history_goes_on"),
        (Self::SaysDoneTooSoon, "says_done_too_soon"),
        (Self::DoneByAnEarlier, "done_by_an_earlier"),
        (Self::AllocationAsFound, "allocation_as_found"),
        (Self::RestartsOne, "restarts_one"),
        (Self::FirstNameOnly, "first_name_only"),
        (Self::DrainSkipped, "drain_skipped"),
        (Self::NoRoomCheck, "no_room_check"),
        (Self::CapacityNotRechecked, "capacity_not_rechecked"),
        (Self::NoSpread, "no_spread"),
        (Self::GlobalMissesOne, "global_misses_one"),
        (Self::RecreateOverlaps, "recreate_overlaps"),
        (Self::UndoneInAnyOrder, "undone_in_any_order"),
        (Self::GivesWayAsItIs, "gives_way_as_it_is"),
        (Self::StartsBesideAnother, "starts_beside_another"),
        (Self::StartsWhatIsGone, "starts_what_is_gone"),
        (Self::JournalGrows, "journal_grows"),
        (Self::RecordsForEver, "records_for_ever"),
        (Self::ClaimsForEver, "claims_for_ever"),
        (Self::FenceFileLost, "fence_file_lost"),
        (Self::RoutesSaidTooSoon, "routes_said_too_soon"),
        (Self::SettlesTooSoon, "settles_too_soon"),
        (Self::StaleWriteTaken, "stale_write_taken"),
        (Self::LivesIgnored, "lives_ignored"),
    ];
}

#[cfg(feature = "mutants")]
mod switches {
    use super::Mutant;

    std::thread_local! {
        static ON: std::cell::RefCell<Vec<Mutant>> = const { std::cell::RefCell::new(Vec::new()) };
    }

    /// Runs `body` on this thread with these bugs planted, and these only.
    pub fn with<T>(mutants: &[Mutant], body: impl FnOnce() -> T) -> T {
        struct Restore(Vec<Mutant>);
        impl Drop for Restore {
            fn drop(&mut self) {
                ON.set(std::mem::take(&mut self.0));
            }
        }
        let _restore = Restore(ON.replace(mutants.to_vec()));
        body()
    }

    /// Whether the bug is planted on this thread.
    #[must_use]
    pub fn on(mutant: Mutant) -> bool {
        ON.with_borrow(|on| on.contains(&mutant))
    }
}

#[cfg(feature = "mutants")]
pub use switches::{on, with};

/// Whether the bug is planted: never in this build.
#[cfg(not(feature = "mutants"))]
#[must_use]
pub const fn on(_: Mutant) -> bool {
    false
}
