//! The simulator measured: bugs planted on purpose, and what it takes to see them.

use std::time::Duration;

use proto_core::mutant::Mutant;

use crate::enumerate::{Found, Settings, enumerate};
use crate::fate::Budget;
use crate::invariants::Violation;
use crate::play::{self, survived};
use crate::run::{Prepared, Report};
use crate::scenario;
use crate::story::{Profile, Story, of_seed};

/// One row: bugs that are planted together.
#[derive(Debug, Clone)]
pub struct Row {
    /// Which.
    pub planted: Vec<Mutant>,
    /// What is worth knowing about it.
    pub remark: &'static str,
    /// The row shows that another safeguard hides the bug: it is not to be caught.
    pub masked: bool,
    /// Only this invariant counts, by the beginning of its name.
    pub looking_for: Option<&'static str>,
}

/// A budget, and how many crashes and faults it allows.
pub const BUDGETS: [(u32, u32); 5] = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1)];

/// How a row came out.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The run that showed the bug; `None` if none did.
    pub caught: Option<Caught>,
    /// How many runs there were until then, or in all.
    pub schedules: u64,
    /// How long it took.
    pub took: Duration,
}

/// The run that showed a bug.
#[derive(Debug, Clone)]
pub struct Caught {
    /// In which scenario.
    pub scenario: &'static str,
    /// How many machines that has.
    pub nodes: usize,
    /// How many crashes and faults were needed.
    pub needed: (u32, u32),
    /// What it broke.
    pub violation: Violation,
    /// The run.
    pub report: Report,
}

/// The rows of the table.
#[must_use]
pub fn rows() -> Vec<Row> {
    let row = |planted: &[Mutant], remark| Row {
        planted: planted.to_vec(),
        remark,
        masked: false,
        looking_for: None,
    };
    vec![
        row(&[Mutant::NoFence], "the participant ignores the floor of a scope"),
        row(&[Mutant::NoBarrier], "adoption goes on without a barrier"),
        row(&[Mutant::RenewDoesNotExtend], "a renewal does not extend the lease"),
        Row {
            masked: true,
            ..row(
                &[Mutant::HeadWithoutCas],
                "head, claims and addresses are written whatever their revisions: hidden by lease and record in the same batch",
            )
        },
        row(&[Mutant::LeaseNotInCommit], "lease and record are no part of the commit batch"),
        Row {
            looking_for: Some("S11"),
            ..row(
                &[Mutant::HeadWithoutCas, Mutant::LeaseNotInCommit],
                "both off: a late commit overwrites a head that has moved on (only S11 counts in this row)",
            )
        },
        row(&[Mutant::StepNotIdempotent], "a step makes a new instance each time it is sent"),
        row(&[Mutant::UndoSkipped], "nothing is undone after a failed readiness"),
        Row {
            masked: true,
            ..row(
                &[Mutant::UnknownIsFailed],
                "a lost answer of the commit counts as a refusal: hidden, as the abort is itself a conditional write of the record",
            )
        },
        Row {
            looking_for: Some("S5"),
            ..row(
                &[Mutant::UnknownIsFailed, Mutant::LeaseNotInCommit],
                "both off: the commit lands after the abort",
            )
        },
        row(&[Mutant::JournalNotSettled], "a restarted participant forgets what its journal names"),
    ]
}

/// Plants the bugs of a row and enumerates, with ever more going wrong, until one is seen.
///
/// `scenarios` are tried in this order at each budget; `within` bounds each enumeration.
pub fn measure(
    row: &Row,
    scenarios: &[Prepared],
    later: &[u64],
    within: Duration,
    threads: usize,
) -> Measured {
    let (mut schedules, begun) = (0, std::time::Instant::now());
    for (crashes, faults) in BUDGETS {
        for prepared in scenarios {
            let settings = Settings {
                budget: Budget::new(crashes, faults, later),
                threads,
                within,
                stop_at_first: true,
                merge: true,
                planted: row.planted.clone(),
                looking_for: row.looking_for,
            };
            let found: Found = enumerate(prepared, &settings);
            schedules += found.schedules;
            if let Some((invariant, report)) = found.examples.into_iter().next() {
                let violation = report.violations.iter().find(|v| v.invariant == invariant);
                let violation = violation.expect("the example of what it broke").clone();
                let (scenario, nodes) = (prepared.scenario.name, prepared.scenario.machines);
                let needed = (crashes, faults);
                let caught = Caught { scenario, nodes, needed, violation, report };
                return Measured { caught: Some(caught), schedules, took: begun.elapsed() };
            }
        }
    }
    Measured { caught: None, schedules, took: begun.elapsed() }
}

/// The scenarios that the rows are measured with, prepared with nothing planted.
///
/// # Errors
///
/// A sentence, if one does not come through with nothing going wrong.
pub fn scenarios() -> Result<Vec<Prepared>, String> {
    let wanted = ["first", "recreate", "never-ready", "slow", "two-machines-recreate"];
    let by_name = |name: &&str| scenario::by_name(name).ok_or(format!("no scenario {name}"));
    let scenarios: Result<Vec<_>, _> = wanted.iter().map(by_name).collect();
    scenarios?
        .into_iter()
        .map(|scenario| {
            let name = scenario.name;
            Prepared::new(scenario).map_err(|report| format!("{name}: {:?}", report.violations))
        })
        .collect()
}

/// The names of bugs that are planted together.
#[must_use]
pub fn name(planted: &[Mutant]) -> String {
    let named = |planted: &Mutant| {
        Mutant::ALL.iter().find(|(other, _)| other == planted).map_or("?", |(_, name)| name)
    };
    planted.iter().map(named).collect::<Vec<_>>().join(" + ")
}

/// A row of the table of stories.
#[derive(Debug, Clone)]
pub struct StoryRow {
    /// The bugs, planted together.
    pub planted: Vec<Mutant>,
    /// How many machines the stories have.
    pub nodes: (u64, u64),
    /// Only this invariant counts, by the beginning of its name.
    pub looking_for: Option<&'static str>,
}

/// The rows: each bug alone, and what is hidden with its safeguard off.
#[must_use]
pub fn story_rows() -> Vec<StoryRow> {
    let row = |planted: &[Mutant]| StoryRow {
        planted: planted.to_vec(),
        nodes: (3, 8),
        looking_for: None,
    };
    let alone = |(mutant, _): (Mutant, &str)| match mutant {
        // Sixteen steps at once.
        Mutant::SpinsWhenFull => StoryRow { nodes: (17, 24), ..row(&[mutant]) },
        // L4 sees it too, where what fits nowhere has committed.
        Mutant::NoRoomCheck => StoryRow { looking_for: Some("S12"), ..row(&[mutant]) },
        _ => row(&[mutant]),
    };
    let mut rows: Vec<_> = Mutant::ALL.into_iter().map(alone).collect();
    // Both safeguards of the head off. Only what the second one alone does not break counts.
    let pair = [Mutant::HeadWithoutCas, Mutant::LeaseNotInCommit];
    rows.push(StoryRow { looking_for: Some("S11"), ..row(&pair) });
    rows
}

impl StoryRow {
    /// The story of this seed that the bugs are looked for in.
    #[must_use]
    pub fn story(&self, seed: u64) -> Story {
        of_seed(seed, self.nodes, Profile::Swarm)
    }
}

/// The story that showed a bug.
#[derive(Debug, Clone)]
pub struct CaughtInStory {
    /// The story.
    pub story: Story,
    /// What it broke.
    pub violation: Violation,
    /// What it came to.
    pub report: play::Report,
    /// How long it took.
    pub took: Duration,
}

/// How many stories it takes until one shows the bug.
#[derive(Debug, Clone)]
pub struct InStories {
    /// The story that showed it; `None`: none of them did.
    pub caught: Option<CaughtInStory>,
    /// How many stories were played.
    pub stories: u64,
    /// How long it took.
    pub took: Duration,
}

/// Plants the bugs of a row and plays stories, one after the other, until one breaks something.
#[must_use]
pub fn in_stories(row: &StoryRow, most: u64) -> InStories {
    let begun = std::time::Instant::now();
    let counts = |found: &Violation| row.looking_for.is_none_or(|n| found.invariant.starts_with(n));
    for seed in 0..most {
        let story = row.story(seed);
        let began = std::time::Instant::now();
        let report = with_planted(&row.planted, || survived(&story, false));
        if let Some(violation) = report.violations.iter().find(|found| counts(found)).cloned() {
            let caught = Some(CaughtInStory { story, violation, report, took: began.elapsed() });
            return InStories { caught, stories: seed + 1, took: begun.elapsed() };
        }
    }
    InStories { caught: None, stories: most, took: begun.elapsed() }
}

/// Does it with these bugs planted on this thread; in a build without the feature `mutants`, with none.
#[cfg(feature = "mutants")]
pub fn with_planted<T>(planted: &[Mutant], body: impl FnOnce() -> T) -> T {
    proto_core::mutant::with(planted, body)
}

/// Does it with these bugs planted on this thread; in a build without the feature `mutants`, with none.
#[cfg(not(feature = "mutants"))]
pub fn with_planted<T>(_: &[Mutant], body: impl FnOnce() -> T) -> T {
    body()
}
