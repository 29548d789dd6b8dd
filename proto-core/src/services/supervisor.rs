//! When a sidecar that died is started again.

use std::time::Duration;

use crate::time::Time;

/// How long the first restart waits.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// The longest wait before a restart.
pub const BACKOFF_CAP: Duration = Duration::from_secs(2);

/// A run of at least this length makes the next wait the first one again.
pub const STABLE_UPTIME: Duration = Duration::from_secs(10);

/// The number of a run of the sidecar, so that news of an earlier run can't be taken for this one's.
/// 0 is the one that was adopted.
pub type Attempt = u64;

/// Something happened to the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The start that was asked for was carried out.
    Started(Attempt),
    /// That run's process ended, or could not be started at all.
    Died(Attempt),
    /// It shall not be started again. Ending it is the caller's.
    Withdraw,
    /// Time went on.
    Tick,
}

/// What the caller has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Start the sidecar, then report [`Input::Started`] or [`Input::Died`] with the same number.
    Start(Attempt),
}

/// Why [`Supervisor::poll_timeout`] wants to be called again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimerKind {
    /// The wait before a restart is over.
    Restart,
}

/// Keeps one sidecar running: 100 ms after its death it is started again, after another soon death the wait doubles,
/// up to 2 s, until a run has lasted 10 s.
///
/// Feed [`handle_input`](Self::handle_input), then drain [`poll_effect`](Self::poll_effect); feed [`Input::Tick`] when the
/// time of [`poll_timeout`](Self::poll_timeout) has come.
#[derive(Debug, Clone)]
pub struct Supervisor {
    state: State,
    attempt: Attempt,
    /// The wait after the next soon death.
    backoff: Duration,
    start_wanted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Running { since: Time },
    Waiting { until: Time },
    Withdrawn,
}

impl Supervisor {
    /// For a sidecar that was found running at `now` and adopted.
    ///
    /// How long it had run before is not known; until it has been seen to run for 10 s it counts as just started.
    #[must_use]
    pub fn adopted(now: Time) -> Self {
        Self::in_state(State::Running { since: now })
    }

    /// For a sidecar that has to be started: the effect to do so can be polled at once.
    #[must_use]
    pub fn to_start() -> Self {
        let mut supervisor = Self::in_state(State::Starting);
        supervisor.start();
        supervisor
    }

    fn in_state(state: State) -> Self {
        Self { state, attempt: 0, backoff: BACKOFF_FIRST, start_wanted: false }
    }

    /// Takes one input. What is about another run than the present one, or repeats what is known, changes nothing.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        match (input, self.state) {
            (Input::Started(attempt), State::Starting) if attempt == self.attempt => {
                self.state = State::Running { since: now };
            }
            (Input::Died(attempt), State::Starting) if attempt == self.attempt => self.wait(now),
            (Input::Died(attempt), State::Running { since }) if attempt == self.attempt => {
                if now.since(since) >= STABLE_UPTIME {
                    self.backoff = BACKOFF_FIRST;
                }
                self.wait(now);
            }
            (Input::Withdraw, _) => {
                self.state = State::Withdrawn;
                self.start_wanted = false;
            }
            (Input::Tick, State::Waiting { until }) if now >= until => self.start(),
            (Input::Started(_) | Input::Died(_) | Input::Tick, _) => {}
        }
    }

    /// The next thing to do.
    #[must_use]
    pub fn poll_effect(&mut self) -> Option<Effect> {
        std::mem::take(&mut self.start_wanted).then_some(Effect::Start(self.attempt))
    }

    /// When to feed [`Input::Tick`], and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Time, TimerKind)> {
        match self.state {
            State::Waiting { until } => Some((until, TimerKind::Restart)),
            State::Starting | State::Running { .. } | State::Withdrawn => None,
        }
    }

    fn start(&mut self) {
        self.attempt += 1;
        self.state = State::Starting;
        self.start_wanted = true;
    }

    fn wait(&mut self, now: Time) {
        // A start that nobody carried out yet can't have died; drop it all the same, the wait comes first.
        self.start_wanted = false;
        self.state = State::Waiting { until: now + self.backoff };
        self.backoff = (self.backoff * 2).min(BACKOFF_CAP);
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
