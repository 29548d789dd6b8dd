//! What the models claim to do as the real parts do. Whatever is in these lists is compared with the real part, at least 500 times in a
//! full run of `tests/tests/conformance_*`; what is in none of them is the model's own invention.

/// An enum of claims, each with the sentence that stands for it in reports and in `docs/simulation.md`.
macro_rules! claims {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $says:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $(#[doc = $says] $variant,)*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The claim as a sentence.
            #[must_use]
            pub fn says(self) -> &'static str {
                match self {
                    $(Self::$variant => $says,)*
                }
            }
        }
    };
}

claims! {
    /// What [`crate::world::kv`] claims, and [`crate::world::servers`] for a lone server.
    StoreClaim {
        ReadFound = "a read brings the entries below a prefix, by key, with their revisions",
        ReadNothing = "a read finds nothing below a prefix",
        ReadSeveral = "a read of several prefixes brings each key once",
        Create = "a write that expects absence creates",
        CreateRefused = "a write that expects absence is refused if the key is there",
        Update = "a write that expects the key's revision is taken",
        StaleRefused = "a write that expects an older revision is refused",
        AheadRefused = "a write that expects a newer revision is refused",
        AbsentRefused = "a write that expects a revision of a key that is not there is refused",
        Overwrite = "a write without expectation replaces a key",
        OverwriteAbsent = "a write without expectation creates a key",
        BatchTaken = "a batch is taken, its writes with consecutive revisions",
        BatchLargest = "a batch of as many writes as there may be is taken",
        BatchMortal = "a batch is taken in which keys have a life",
        BatchStaleFirst = "a batch whose first expectation is stale is refused whole",
        BatchStaleWithin = "a batch whose expectation in the middle is stale is refused whole",
        BatchStaleLast = "a batch whose last expectation is stale is refused whole",
        BatchTooLarge = "a batch of too many writes is refused",
        BatchTwice = "a batch with a key twice is refused",
        BatchEmpty = "a batch without writes is refused",
        LifeRefused = "a life that is not of whole seconds is refused",
        LifeGiven = "a key is written with a life and is there until its end",
        Outlives = "a key is there after a pause that is shorter than its life",
        Expires = "a key is gone after its life, and leaves no revision",
        Renewed = "a rewrite gives a key its whole life again",
        MadeImmortal = "a rewrite without a life takes a key's end away",
        MadeMortal = "a rewrite with a life gives an end to a key that had none",
        CreateAfterEnd = "a write that expects absence is taken after the key's end",
        RefusedAfterEnd = "a write that expects the revision that an ended key had is refused",
        Killed = "a server that was killed comes back with everything that it had acknowledged",
        Stopped = "a server that was stopped comes back with everything that it had acknowledged",
        ComesBack = "a key that has ended may be back after a kill, as what it was before it had an end",
        ExpiresAway = "a key whose life ends while the server is down is gone within two seconds of its return",
        AwayRead = "a read of a server that is down is unavailable",
        AwayWrite = "a write to a server that is down is unavailable and never lands",
    }
}

claims! {
    /// What [`crate::world::runtime`] claims.
    RuntimeClaim {
        Created = "an instance is made and runs",
        TakenRunning = "a name that a running instance has is taken",
        TakenEnded = "a name that an ended instance has is taken",
        ImageMissing = "an instance of an image that is not here is refused, and nothing is left of it",
        StartRunning = "a start of what runs changes nothing",
        StartStopped = "a stopped instance is started again",
        StartExited = "an instance that has exited is started again, and exits again",
        StartAbsent = "a start of what is not there is refused",
        StopRunning = "a stop ends a running instance, and its code says so (143)",
        StopEnded = "a stop of what has ended changes nothing, also not its code",
        StopLooping = "a stop of an instance that keeps exiting ends it",
        StopAbsent = "a stop of what is not there is a success",
        RemoveRunning = "a running instance is removed",
        RemoveEnded = "an ended instance is removed",
        RemoveLooping = "an instance that keeps exiting is removed",
        RemoveAbsent = "a removal of what is not there is a success",
        InspectRunning = "a look at a running instance",
        InspectEnded = "a look at an ended instance, with its code",
        InspectAbsent = "a look at what is not there",
        ListAll = "a list of all instances",
        ListNamespace = "a list of the instances of a namespace",
        ExitZero = "an instance exits with 0",
        ExitCode = "an instance exits with another code",
        LeftAlone = "what exits by itself, with the policy to be left alone, stays exited",
        LeftAfterZero = "what exits with 0, with the policy to be restarted on failure, stays exited",
        RestartedAlways = "what exits with 0, with the policy to be always restarted, is started again",
        RestartedOnFailure = "what fails, with the policy to be restarted on failure, is started again",
        RunsAgain = "what ran and failed, with the policy to be always restarted, runs again, and that is counted",
        ProbeReady = "a probe of what is ready succeeds",
        ProbeNever = "a probe of what runs and is not ready fails",
        ProbeEnded = "a probe of what does not run fails",
        ProbeAbsent = "a probe in what is not there is refused",
        Logs = "the last line that an instance wrote",
        LogsAbsent = "the lines of what is not there are refused",
        Settled = "nothing of an instance is under way after it has settled",
        Images = "which images are here",
    }
}
