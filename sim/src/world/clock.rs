//! A machine's clocks: one that counts, and stands still while the machine sleeps, and one that says what time it is, wrongly.

use std::time::Duration;

use proto_core::time::{Time, UnixTime};

/// What the wall clock of a right machine says when the simulation begins: some day in January 2027, in milliseconds.
const BEGIN: u64 = 1_800_000_000_000;

/// The clocks of a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    /// How long the machine slept in all.
    slept: Duration,
    /// How far its wall clock is from the right time, in milliseconds.
    offset: i64,
    /// Its wall clock stands still.
    stopped: bool,
}

/// The first multiple of `round` that is not before; the time itself if there is no round.
#[must_use]
pub fn to_round(time: Time, round: Option<Duration>) -> Time {
    let round = round.map_or(1, |round| u64::try_from(round.as_nanos()).unwrap_or(1).max(1));
    Time::from_nanos(time.as_nanos().next_multiple_of(round))
}

impl Clock {
    /// What its monotonic clock says at this time of the simulation.
    #[must_use]
    pub fn monotonic(&self, now: Time) -> Time {
        now - self.slept
    }

    /// At which time of the simulation its monotonic clock says this.
    #[must_use]
    pub fn when(&self, monotonic: Time) -> Time {
        monotonic + self.slept
    }

    /// What its wall clock says.
    #[must_use]
    pub fn wall(&self, now: Time) -> UnixTime {
        let right = if self.stopped { BEGIN } else { BEGIN + now.as_nanos() / 1_000_000 };
        UnixTime::from_millis(right.saturating_add_signed(self.offset))
    }

    /// The machine slept for so long.
    pub fn sleep(&mut self, slept: Duration) {
        self.slept += slept;
    }

    /// Its wall clock jumps by so many milliseconds.
    pub fn step(&mut self, millis: i64) {
        self.offset = self.offset.saturating_add(millis);
    }

    /// Its wall clock stands still from now on: two runs that differ only in when something was recorded are the same.
    pub fn stop_wall(&mut self) {
        self.stopped = true;
    }

    /// Its wall clock is right again.
    pub fn set_right(&mut self) {
        self.offset = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleeping_machine_counts_no_time_and_its_wall_clock_goes_on() {
        let mut clock = Clock::default();
        let now = Time::ZERO + Duration::from_secs(100);
        let wall = clock.wall(now);
        clock.sleep(Duration::from_secs(40));
        assert_eq!(clock.monotonic(now), Time::ZERO + Duration::from_secs(60));
        assert_eq!(clock.when(clock.monotonic(now)), now);
        assert_eq!(clock.wall(now), wall);
        clock.step(-1500);
        assert_eq!(clock.wall(now).as_millis() + 1500, wall.as_millis());
    }
}
