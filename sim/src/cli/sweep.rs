//! `sweep`: many stories, one a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use sim::invariants::Violation;
use sim::marks::Marks;
use sim::play::{Outcomes, Report, rules, survived};
use sim::story::{Action, CLASSES, Profile, Story, of_seed};

use super::json;
use super::plant::Plant;
use super::shrink::{self, Small};

/// Which stories, and how many at once.
#[derive(Debug, Clone, Args)]
pub(crate) struct SweepArgs {
    /// Seeds, the last one left out: `0..10000`.
    #[arg(long, value_parser = parse_seeds)]
    seeds: (u64, u64),
    /// Threads.
    #[arg(long, default_value_t = 2, value_parser = super::parse_threads)]
    jobs: usize,
    /// Ends after this time, as in `90s`, `5m`, `1h`, whether all seeds were played or not.
    #[arg(long = "for", value_parser = parse_duration)]
    how_long: Option<Duration>,
    /// Least and most machines.
    #[arg(long, default_value = "3..50", value_parser = parse_nodes)]
    nodes: (u64, u64),
    /// Which faults.
    #[arg(long, value_enum, default_value = "swarm")]
    faults: Profile,
    /// Fails unless the sweep was thorough: each kind of operation ended in each way often enough, each fault struck often enough,
    /// each invariant could have been broken often enough, each mark was hit.
    ///
    /// Of 10,000 seeds, in proportion for fewer: each kind of operation committed 1,000 times and ended as each other result 20 times, by the
    /// last answer that its operator had; half of all operations committed; each class of faults struck an open operation in 5 % of the stories;
    /// the premise of each invariant was true 10,000 times. A preview ends as previewed, and no more is asked of it. A restart is
    /// something new each time, so it need not be done already. That a daemon did not listen, went away, or had not answered when its operator
    /// lost patience is no result of an operation: it counts in the half, and 20 of it are not asked for.
    #[arg(long)]
    thorough: bool,
    /// One JSON object.
    #[arg(long)]
    json: bool,
    /// Puts the tables of this sweep between the marks of this page, unless something broke or it was not thorough.
    #[arg(long)]
    write: Option<PathBuf>,
    #[command(flatten)]
    plant: Plant,
}

fn parse_seeds(text: &str) -> Result<(u64, u64), String> {
    let pair = text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let pair: Option<(u64, u64)> = pair;
    pair.filter(|(a, b)| a < b).ok_or_else(|| format!("{text:?} is no range: write 0..1000"))
}

fn parse_nodes(text: &str) -> Result<(u64, u64), String> {
    let pair = text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    let pair: Option<(u64, u64)> = pair;
    pair.filter(|(a, b)| (1..=*b).contains(a) && *b <= 200)
        .ok_or_else(|| format!("{text:?} is no range of 1 to 200 machines: write 3..50"))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(['s', 'm', 'h']);
    let unit = match &text[number.len()..] {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(format!("{text:?} is no time: write 90s, 5m or 1h")),
    };
    let number: u64 =
        number.parse().map_err(|_| format!("{text:?} is no time: write 90s, 5m or 1h"))?;
    let seconds = number.checked_mul(unit).filter(|seconds| *seconds <= 366 * 86_400);
    seconds.map(Duration::from_secs).ok_or_else(|| format!("{text:?} is more than a year"))
}

/// What all stories came to.
#[derive(Debug, Default)]
struct Total {
    stories: u64,
    simulated_seconds: u64,
    events: u64,
    outcomes: Outcomes,
    faults: BTreeMap<&'static str, u64>,
    /// In how many stories a class struck while an operation was open.
    struck_open: BTreeMap<&'static str, u64>,
    marks: Marks,
    premises: BTreeMap<&'static str, u64>,
    requests: (u64, u64),
    answers: Outcomes,
    hash: u64,
    broken: Vec<(Story, Violation)>,
}

impl Total {
    fn add(&mut self, story: &Story, report: &Report) {
        self.stories += 1;
        self.simulated_seconds += report.simulated_seconds;
        self.events += report.events;
        self.outcomes.merge(&report.outcomes);
        self.answers.merge(&report.answers);
        for (class, count) in &report.faults {
            *self.faults.entry(class).or_default() += count;
        }
        for class in &report.struck_open {
            *self.struck_open.entry(class).or_default() += 1;
        }
        self.marks.merge(&report.marks);
        for (name, count) in &report.premises {
            *self.premises.entry(name).or_default() += count;
        }
        self.requests.0 += report.requests.served;
        self.requests.1 += report.requests.failed;
        // Independent of the order in which threads come to an end.
        self.hash ^= report.trace_hash.wrapping_mul(story.seed | 1);
        if let Some(violation) = report.violations.first() {
            self.broken.push((story.clone(), violation.clone()));
        }
    }
}

impl SweepArgs {
    pub(crate) fn run(&self) -> Result<bool, String> {
        if let Some(page) = &self.write {
            super::around(page, "sweep")?;
            if !self.thorough {
                return Err("a page has the figures of a thorough sweep: add --thorough".to_owned());
            }
        }
        let begun = Instant::now();
        let next = AtomicU64::new(self.seeds.0);
        let stop = AtomicBool::new(false);
        let total = Mutex::new(Total::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let following = |seed| (seed < self.seeds.1).then_some(seed + 1);
                        let seed =
                            next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, following);
                        let Ok(seed) = seed else { return };
                        if self.how_long.is_some_and(|long| begun.elapsed() >= long) {
                            return;
                        }
                        let story = of_seed(seed, self.nodes, self.faults);
                        let report = self.plant.around(|| survived(&story, false));
                        let mut total = total.lock().expect("no thread panics with it");
                        total.add(&story, &report);
                        if total.broken.len() >= 10 {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let mut total = total.into_inner().expect("every thread has ended");
        // Not in the order in which threads came to an end.
        total.broken.sort_by_key(|(story, _)| story.seed);
        let seconds = begun.elapsed().as_secs_f64();
        if total.stories == 0 {
            return Err("there was no time for a single story".to_owned());
        }
        let missing = if self.thorough { missing(&total) } else { Vec::new() };
        let good = total.broken.is_empty() && missing.is_empty();
        if !self.json {
            self.table(&total, seconds).iter().for_each(|line| say!("{line}"));
            missing.iter().for_each(|line| say!("  NOT THOROUGH {line}"));
        }
        let kept = self.keep(&total.broken);
        if self.json {
            let kept = kept.as_deref().unwrap_or_default();
            say!("{}", self.to_json(&total, seconds, &missing, kept));
        }
        if let Some(page) = &self.write {
            super::write_if(
                good && self.plant.is_empty(),
                page,
                "sweep",
                &self.table(&total, seconds),
            )?;
        }
        kept?;
        Ok(good)
    }

    /// Saves every story that broke something, makes the first one of each rule small, and says how to see each of them again.
    fn keep(&self, broken: &[(Story, Violation)]) -> Result<Vec<Kept>, String> {
        for (story, violation) in broken {
            super::aside(self.json, &format!("  seed {}: {violation}", story.seed));
        }
        // First all of them as they were played: to make one small may take long, and may be ended.
        let files = broken.iter().map(|(story, violation)| shrink::save(story, violation));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        let (mut rules, mut kept) = (BTreeSet::new(), Vec::new());
        for ((story, violation), file) in broken.iter().zip(files) {
            let small = rules.insert(violation.invariant);
            let small = small.then(|| shrink::failure(story, violation, &self.plant));
            let small = small.transpose()?;
            let replay = super::replay_of(&file, &self.plant);
            let how = small
                .as_ref()
                .map_or_else(|| format!("as it was played\n  {replay}"), Small::in_words);
            super::aside(self.json, &format!("  seed {}: {how}", story.seed));
            kept.push(Kept { file, replay, small });
        }
        Ok(kept)
    }

    fn to_json(&self, total: &Total, seconds: f64, missing: &[String], kept: &[Kept]) -> Value {
        let broken = total.broken.iter().enumerate().map(|(n, (story, violation))| {
            let mut all = json::violation(violation);
            all["seed"] = json!(story.seed);
            all["nodes"] = json!(story.nodes);
            let kept = kept.get(n);
            all["file"] = json!(kept.map(|kept| &kept.file));
            all["replay"] = json!(kept.map(|kept| &kept.replay));
            let small = kept.and_then(|kept| kept.small.as_ref());
            all["shrunk"] = small.map_or(Value::Null, Small::to_json);
            all
        });
        json!({
            "seeds": [self.seeds.0, self.seeds.1],
            "nodes": [self.nodes.0, self.nodes.1],
            "stories": total.stories,
            "seconds": seconds,
            "simulated_seconds": total.simulated_seconds,
            "events": total.events,
            "operations": total.outcomes,
            "answers": total.answers,
            "faults": total.faults,
            "stories_struck_in_an_operation": total.struck_open,
            "marks": total.marks,
            "premises": total.premises,
            "requests": {"served": total.requests.0, "failed": total.requests.1},
            "trace_hash": json::hash(total.hash),
            "peak_memory_bytes": super::peak_memory(),
            "not_thorough": missing,
            "violations": broken.collect::<Vec<_>>(),
        })
    }

    fn table(&self, total: &Total, seconds: f64) -> Vec<String> {
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = total.simulated_seconds as f64 / seconds;
        let mut lines = vec![
            format!(
                "Seeds {}..{}: {} stories of {} to {} machines, {} simulated seconds in {seconds:.0} s ({rate:.0} a second on {} threads), {} events, {} requests served and {} failed, {} violations, hash {:016x}.",
                self.seeds.0,
                self.seeds.1,
                total.stories,
                self.nodes.0,
                self.nodes.1,
                total.simulated_seconds,
                self.jobs,
                total.events,
                total.requests.0,
                total.requests.1,
                total.broken.len(),
                total.hash,
            ),
            String::new(),
        ];
        lines.extend(outcomes(
            "operations, by the last answer that the operator had",
            &total.outcomes,
        ));
        lines.push(String::new());
        lines.extend(outcomes(
            "answers, also those after which the operator went on",
            &total.answers,
        ));
        lines.extend([
            String::new(),
            "| fault | struck | stories in which it struck an open operation |".to_owned(),
            "|---|---|---|".to_owned(),
        ]);
        for (class, count) in &total.faults {
            let open = total.struck_open.get(class).copied().unwrap_or(0);
            lines.push(format!("| {class} | {count} | {open} |"));
        }
        lines.extend([
            String::new(),
            "| invariant | states in which its premise was true |".to_owned(),
            "|---|---|".to_owned(),
        ]);
        for (name, count) in &total.premises {
            lines.push(format!("| {name} | {count} |"));
        }
        lines.extend([String::new(), "| mark | hit |".to_owned(), "|---|---|".to_owned()]);
        for (mark, count) in &total.marks.0 {
            lines.push(format!("| {mark} | {count} |"));
        }
        lines
    }
}

/// A story that broke something, saved.
struct Kept {
    file: PathBuf,
    replay: String,
    /// If it is the first of its rule.
    small: Option<Small>,
}

/// A table of kinds and outcomes.
fn outcomes(title: &str, all: &Outcomes) -> Vec<String> {
    let mut names: Vec<_> = all.0.values().flat_map(BTreeMap::keys).copied().collect();
    names.sort_unstable();
    names.dedup();
    let mut lines = vec![
        format!("| {title} | {} |", names.join(" | ")),
        format!("|---|{}", "---|".repeat(names.len())),
    ];
    for kind in all.0.keys() {
        let counts: Vec<_> = names.iter().map(|name| all.count(kind, name).to_string()).collect();
        lines.push(format!("| {kind} | {} |", counts.join(" | ")));
    }
    lines
}

/// What a sweep of 10,000 seeds must have come to; in proportion for fewer.
fn missing(total: &Total) -> Vec<String> {
    let mut missing = Vec::new();
    let share = |of: u64| (of * total.stories / 10_000).max(1);
    let (mut all, mut committed) = (0, 0);
    for kind in Action::KINDS {
        let ends = if kind == "preview" { "previewed" } else { "committed" };
        let good = total.outcomes.count(kind, ends);
        if good < share(1000) {
            missing
                .push(format!("{kind} ended as {ends} {good} times, {} are wanted", share(1000)));
        }
        if kind == "preview" {
            continue;
        }
        let others =
            ["already_done", "refused", "aborted", "interrupted", "unknown", "cleanup_pending"];
        for other in others {
            let count = total.outcomes.count(kind, other);
            // To restart is to ask for something each time: only who resumes one is told that it is done already.
            let never = kind == "restart" && other == "already_done";
            if count < share(20) && !never {
                missing.push(format!(
                    "{kind} ended as {other} {count} times, {} are wanted",
                    share(20)
                ));
            }
        }
        committed += good;
        all += total.outcomes.0.get(kind).map_or(0, |outcomes| outcomes.values().sum());
    }
    if committed * 2 < all {
        missing.push(format!("{committed} of {all} operations committed, half of them are wanted"));
    }
    for class in CLASSES {
        let open = total.struck_open.get(class).copied().unwrap_or(0);
        if open * 20 < total.stories {
            missing.push(format!(
                "{class} struck an open operation in {open} of {} stories, 5 % are wanted",
                total.stories
            ));
        }
    }
    for name in rules() {
        let count = total.premises.get(name).copied().unwrap_or(0);
        if count < share(10_000) {
            missing.push(format!(
                "the premise of {name} was true {count} times, {} are wanted",
                share(10_000)
            ));
        }
    }
    missing.extend(total.marks.missing().into_iter().map(|mark| format!("never: {mark}")));
    missing
}
