//! `explain`: a saved file, played again and told to people.

use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::Value;
use sim::choice::{self, Choices};
use sim::explain::{self, Layout, Nodes, Selection, Told};
use sim::invariants::Violation;
use sim::play::survived;
use sim::trace::Happened;

use super::json;
use super::plant::Plant;
use super::saved::{self, Saved};

/// What `explain` is asked for.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExplainArgs {
    /// The file: a story, or the choices of an enumeration.
    file: PathBuf,
    /// Writes one page for a browser instead: a lane a machine over time. It holds everything that it needs.
    #[arg(long, conflicts_with = "json")]
    html: bool,
    /// Where the page goes. By default beside the file, ending in .html.
    #[arg(long, requires = "html")]
    out: Option<PathBuf>,
    /// One JSON object: what `run --json` says, planned_faults, spans (what was asked of daemons), lines. Times are microseconds, machines count
    /// from 0.
    #[arg(long)]
    json: bool,
    /// Only these machines: m1,m4-m6.
    #[arg(long)]
    node: Option<Nodes>,
    /// Only operations whose id, request, outcome or error code holds this: ns1, 5a1f, aborted, LEASE_HELD.
    #[arg(long)]
    operation: Option<String>,
    /// Only from this second of the simulation on.
    #[arg(long)]
    from: Option<u64>,
    /// Only until this second of the simulation.
    #[arg(long)]
    until: Option<u64>,
    /// Every effect too, not only changes of state, what is lost and what is struck. JSON and pages always have them.
    #[arg(long)]
    effects: bool,
    /// How many characters a line may have. By default what COLUMNS says, or 120.
    #[arg(long, value_parser = clap::value_parser!(u16).range(40..))]
    width: Option<u16>,
    #[command(flatten)]
    plant: Plant,
}

impl ExplainArgs {
    /// Plays a file again and tells what happened; whether nothing broke.
    pub(crate) fn run(&self) -> Result<bool, String> {
        if let (Some(from), Some(until)) = (self.from, self.until)
            && from > until
        {
            return Err(format!("--from {from} is after --until {until}"));
        }
        let Some((mut told, run)) = told(&self.file, self.json, &self.plant)? else {
            return Ok(false);
        };
        if let Some(last) = self.node.as_ref().and_then(Nodes::last)
            && last > told.nodes
        {
            return Err(format!("there is no m{last}: the machines are m1 to m{}", told.nodes));
        }
        told.select(&Selection {
            from: self.from.map(|seconds| seconds.saturating_mul(1_000_000)),
            until: self.until.map(|seconds| seconds.saturating_mul(1_000_000)),
            nodes: self.node.clone(),
            operation: self.operation.clone(),
        });
        if told.lines.is_empty() {
            eprintln!("ployz-sim: nothing of what happened is selected by these options");
        }
        let mut stdout = std::io::stdout().lock();
        if self.html {
            let page = self.out.clone().unwrap_or_else(|| self.file.with_extension("html"));
            let same =
                |page: &Path| Some(page.canonicalize().ok()? == self.file.canonicalize().ok()?);
            if same(&page) == Some(true) {
                return Err(format!(
                    "{} is the story; `--out PAGE` names another file",
                    page.display()
                ));
            }
            std::fs::write(&page, explain::page(&told))
                .map_err(|error| format!("{} cannot be written: {error}", page.display()))?;
            say!("{}", page.display());
        } else if self.json {
            let mut out = BufWriter::new(&mut stdout);
            let written = explain::json(&told, &run, &mut out).and_then(|()| out.flush());
            drop(out);
            unless_closed(written)?;
        } else {
            let columns = std::env::var("COLUMNS")
                .ok()
                .and_then(|columns| columns.parse().ok())
                .map(|columns: usize| columns.max(40));
            let layout = Layout {
                width: self.width.map(usize::from).or(columns).unwrap_or(120),
                colour: stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none(),
                effects: self.effects,
            };
            unless_closed(stdout.write_all(explain::text(&told, layout).as_bytes()))?;
        }
        if let Value::String(again) = &run["replay"] {
            // On standard output a page's name stands alone, for scripts.
            super::aside(self.html || self.json, &format!("  {again}"));
        }
        Ok(told.violations.is_empty())
    }
}

/// A reader that has seen enough, as `head` does, is no error.
fn unless_closed(written: std::io::Result<()>) -> Result<(), String> {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("the output cannot be written: {error}"))
        }
        _ => Ok(()),
    }
}

/// What happens when the file is played, and the same as JSON without its lines; `None`: its scenario breaks even with nothing going wrong, and
/// that was said.
fn told(path: &Path, json: bool, plant: &Plant) -> Result<Option<(Told, Value)>, String> {
    let again = super::replay_of(path, plant);
    let again = |violations: &[Violation]| (!violations.is_empty()).then_some(again.as_str());
    match saved::load(path)? {
        Saved::Story(story) => {
            let began = Instant::now();
            let report = plant.around(|| survived(&story, true));
            let took = began.elapsed().as_secs_f64();
            let run = json::of_story(&story, &report, took, again(&report.violations));
            let happened = Happened { lines: report.lines, spans: report.spans };
            Ok(Some((Told::of_story(&story, happened, report.violations), run)))
        }
        Saved::Schedule(schedule) => {
            let answers = choice::parse(&schedule.choices)?;
            let Some(prepared) = super::enumerate::prepare(&schedule.scenario, json)? else {
                return Ok(None);
            };
            let mut choices = Choices::recorded(answers);
            let report = plant.around(|| prepared.run(&mut choices, schedule.budget(), true));
            if report.violations.is_empty() {
                saved::fits(path, &schedule, &choices)?;
            }
            let machines = prepared.scenario.machines;
            let run = json::of_schedule(&schedule, machines, &report, again(&report.violations));
            let (title, trace) = (schedule.scenario, report.trace);
            Ok(Some((Told::new(title, machines, 1, trace, report.violations), run)))
        }
    }
}
