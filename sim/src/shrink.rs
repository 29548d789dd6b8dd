//! Makes the story of a failure small: fewer operations, faults, machines, and less time, as long as the same invariant breaks.

use std::time::{Duration, Instant};

use crate::play::survived;
use crate::story::{Story, What};

/// What shrinking came to.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The smallest story found that breaks the invariant.
    pub story: Story,
    /// It breaks something.
    pub breaks: bool,
    /// How many stories were played.
    pub runs: u32,
}

/// Shrinks a story that breaks something, for at most this time. One that breaks nothing is left as it is.
#[must_use]
pub fn shrink(story: &Story, within: Duration) -> Shrunk {
    let mut shrinking =
        Shrinking { until: Instant::now() + within, runs: 0, wanted: String::new() };
    let mut story = story.clone();
    let Some((broke, at)) = shrinking.breaks(&story) else {
        return Shrunk { story, breaks: false, runs: shrinking.runs };
    };
    shrinking.wanted = broke.clone();
    story.broke = Some(broke);
    // What comes after the failure is seldom needed.
    let mut begins = Story { length: story.length.min(at), ..story.clone() };
    begins.operations.retain(|asked| asked.at <= at);
    begins.faults.retain(|fault| fault.at <= at);
    shrinking.take(&mut story, begins);
    loop {
        let before = story.clone();
        shrinking.leave_out(
            &mut story,
            |story| story.faults.len(),
            |story, range| {
                story.faults.drain(range);
            },
        );
        shrinking.leave_out(
            &mut story,
            |story| story.operations.len(),
            |story, range| {
                story.operations.drain(range);
            },
        );
        shrinking.without_clients(&mut story);
        shrinking.on_new_machines(&mut story);
        shrinking.with_all_mended(&mut story);
        shrinking.fewer_machines(&mut story);
        shrinking.fewer_servers(&mut story);
        shrinking.shorter(&mut story);
        if story == before || shrinking.is_over() {
            return Shrunk { story, breaks: true, runs: shrinking.runs };
        }
    }
}

/// The story on the first machines only.
fn on_machines(story: &Story, nodes: usize) -> Story {
    let mut story = Story { nodes, ..story.clone() };
    story.servers = story.servers.min(if nodes >= 3 { 3 } else { 1 });
    for asked in &mut story.operations {
        asked.machine %= nodes;
        asked.then_on %= nodes;
    }
    story.away = story.away.filter(|away| *away < nodes);
    // A fault of a machine that is gone never begins.
    story.faults.retain(|fault| fault.what.machines().iter().all(|m| *m < nodes));
    let mut story = with_servers(&story, story.servers);
    for fault in &mut story.faults {
        if let What::Partition { groups } = &mut fault.what {
            groups.truncate(nodes);
        }
    }
    story
}

/// The story with so many servers of the store.
fn with_servers(story: &Story, servers: usize) -> Story {
    let mut story = Story { servers, ..story.clone() };
    let is_gone = |what: &What| match what {
        What::ServerCrash { machine } => *machine >= servers,
        What::QuorumLoss => servers == 1,
        _ => false,
    };
    story.faults.retain(|fault| !is_gone(&fault.what));
    story
}

struct Shrinking {
    until: Instant,
    runs: u32,
    wanted: String,
}

impl Shrinking {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// The first invariant that the story breaks, and when in milliseconds.
    fn breaks(&mut self, story: &Story) -> Option<(String, u64)> {
        self.runs += 1;
        let report = survived(story, false);
        let violation = report.violations.first()?;
        Some((violation.invariant.to_owned(), violation.at.as_nanos() / 1_000_000 + 1))
    }

    /// Takes the smaller story if it breaks the same.
    fn take(&mut self, story: &mut Story, smaller: Story) -> bool {
        if smaller == *story || smaller.check().is_err() || self.is_over() {
            return false;
        }
        let same = self.breaks(&smaller).is_some_and(|(broke, _)| broke == self.wanted);
        if same {
            *story = smaller;
        }
        same
    }

    /// Leaves out halves, quarters, and so on down to one by one.
    fn leave_out(
        &mut self,
        story: &mut Story,
        count: impl Fn(&Story) -> usize,
        without: impl Fn(&mut Story, std::ops::Range<usize>),
    ) {
        let mut size = count(story).div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < count(story) {
                let to = (from + size).min(count(story));
                let mut smaller = story.clone();
                without(&mut smaller, from..to);
                if !self.take(story, smaller) {
                    from += size;
                }
            }
            size = if size == 1 { 0 } else { size.div_ceil(2) };
        }
    }

    fn without_clients(&mut self, story: &mut Story) {
        let smaller = Story { request_every: 0, ..story.clone() };
        self.take(story, smaller);
    }

    fn on_new_machines(&mut self, story: &mut Story) {
        let smaller = Story { used: 0, ..story.clone() };
        self.take(story, smaller);
    }

    fn with_all_mended(&mut self, story: &mut Story) {
        let smaller = Story { away: None, ..story.clone() };
        self.take(story, smaller);
    }

    fn fewer_machines(&mut self, story: &mut Story) {
        for nodes in 1..story.nodes {
            if self.take(story, on_machines(story, nodes)) {
                return;
            }
        }
    }

    fn fewer_servers(&mut self, story: &mut Story) {
        for servers in [1, 3] {
            if servers < story.servers && self.take(story, with_servers(story, servers)) {
                return;
            }
        }
    }

    fn shorter(&mut self, story: &mut Story) {
        for n in 0..story.operations.len() {
            let mut smaller = story.clone();
            smaller.operations[n].cancel_after = None;
            self.take(story, smaller);
        }
        let last = story.operations.iter().map(|asked| asked.at);
        let last = last.chain(story.faults.iter().map(|fault| fault.at)).max().unwrap_or(0);
        let smaller = Story { length: story.length.min(last + 1), ..story.clone() };
        self.take(story, smaller);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::{Profile, of_seed};

    #[test]
    fn a_story_on_fewer_machines_can_be_read_again() {
        let stories = (0..200).map(|seed| of_seed(seed, (6, 12), Profile::Swarm));
        let cut = |what: &What| matches!(what, What::Partition { .. });
        let stories = stories.filter(|story| story.faults.iter().any(|fault| cut(&fault.what)));
        let mut with_partition = 0;
        for story in stories {
            let smaller = on_machines(&story, 5);
            with_partition += u32::from(smaller.faults.iter().any(|fault| cut(&fault.what)));
            assert_eq!(smaller.check(), Ok(()), "seed {}", story.seed);
        }
        assert!(with_partition > 20, "{with_partition}");
    }
}
