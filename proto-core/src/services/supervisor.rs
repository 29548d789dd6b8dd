use std::time::Duration;

use crate::time::Time;

/// The first pause before a restart; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause: a sidecar that died is back within two seconds.
const LONGEST_PAUSE: Duration = Duration::from_millis(1600);
/// What ran as long as this was well: pauses begin anew.
const WELL: Duration = Duration::from_secs(10);

/// When to restart a sidecar that died.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervisor {
    pause: Duration,
    started: Option<Time>,
    restart_at: Option<Time>,
}

impl Supervisor {
    /// Of a sidecar that has not died yet.
    #[must_use]
    pub fn new() -> Self {
        Self { pause: FIRST_PAUSE, started: None, restart_at: None }
    }

    /// It runs.
    pub fn started(&mut self, now: Time) {
        self.started = Some(now);
        self.restart_at = None;
    }

    /// It died, or could not be started.
    pub fn died(&mut self, now: Time) {
        if self.started.take().is_some_and(|started| now.since(started) >= WELL) {
            self.pause = FIRST_PAUSE;
        }
        self.restart_at = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// When it is to be started again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.restart_at
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_less_than_two_seconds_and_begin_anew_after_a_good_run() {
        let mut supervisor = Supervisor::new();
        let mut now = Time::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..6 {
            supervisor.started(now);
            supervisor.died(now);
            let at = supervisor.poll_timeout().unwrap();
            pauses.push(at.since(now).as_millis());
            now = at;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 1600]);
        supervisor.started(now);
        assert_eq!(supervisor.poll_timeout(), None);
        now = now + Duration::from_secs(11);
        supervisor.died(now);
        assert_eq!(supervisor.poll_timeout().unwrap().since(now).as_millis(), 100);
    }
}
