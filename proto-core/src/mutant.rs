//! Bugs that the simulator plants to measure itself. Without the feature `mutants` every switch is the constant `false`.

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// The participant ignores the floor of a scope.
    NoFence,
    /// Adoption goes on without a barrier.
    NoBarrier,
    /// Renewing a lease does not extend it.
    RenewDoesNotExtend,
    /// The head is written whatever its revision.
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
}

impl Mutant {
    /// All of them, with the names that `ployz-sim mutants` takes.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::NoFence, "no_fence"),
        (Self::NoBarrier, "no_barrier"),
        (Self::RenewDoesNotExtend, "renew_does_not_extend"),
        (Self::HeadWithoutCas, "head_without_cas"),
        (Self::LeaseNotInCommit, "lease_not_in_commit"),
        (Self::StepNotIdempotent, "step_not_idempotent"),
        (Self::UndoSkipped, "undo_skipped"),
        (Self::UnknownIsFailed, "unknown_is_failed"),
        (Self::JournalNotSettled, "journal_not_settled"),
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
    pub(crate) fn on(mutant: Mutant) -> bool {
        ON.with_borrow(|on| on.contains(&mutant))
    }
}

#[cfg(feature = "mutants")]
pub(crate) use switches::on;
#[cfg(feature = "mutants")]
pub use switches::with;

/// Whether the bug is planted: never in this build.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn on(_: Mutant) -> bool {
    false
}
