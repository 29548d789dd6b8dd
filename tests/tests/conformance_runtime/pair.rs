//! A model and a real runtime, to which the same is done.

use std::time::{Duration, Instant};

use proto_core::runtime::{
    InstanceState, ObservedInstance, RuntimeError, RuntimeReply, RuntimeRequest,
};
use proto_core::time::{Time, UnixTime};
use sim::claims::RuntimeClaim as Claim;
use sim::world::runtime::Runtime;

use crate::ask::{Ask, KINDS, Kind};
use crate::real::{Part, Source};

/// What happens by itself has happened in the model after so long.
const LATER: Duration = Duration::from_secs(1);

/// Both sides.
pub(crate) struct Pair {
    pub(crate) model: Runtime,
    real: Part,
    now: Time,
    /// How often each kind of instance was started since it was made, which is how many lines it wrote.
    starts: [usize; KINDS.len()],
    /// What happens by itself has happened in truth after so long at the latest.
    soon: Duration,
    pub(crate) done: Vec<Ask>,
}

impl Pair {
    pub(crate) fn start(source: &Source, model: Runtime, soon: Duration) -> Self {
        let starts = [0; KINDS.len()];
        Self { model, real: source.fresh(), now: Time::ZERO, starts, soon, done: Vec::new() }
    }

    /// Does it to both, and waits until what follows from it has happened; what was compared, or how they differ.
    pub(crate) async fn step(&mut self, ask: Ask) -> Result<Vec<Claim>, String> {
        self.done.push(ask);
        self.now = self.now + LATER;
        let before = ask.kind().map(|kind| (kind, self.state(kind)));
        match ask.request() {
            Some(request) => {
                let model = outline(&self.model.apply(self.now, wall(), &request));
                let real = outline(&self.real.ask(request).await);
                if model != real {
                    return Err(format!("{ask:?}\n  the model: {model}\n  the runtime: {real}"));
                }
            }
            None => self.fail(ask.kind().expect("an instance fails")).await?,
        }
        let changes = matches!(
            ask,
            Ask::Create(_) | Ask::Start(_) | Ask::Stop(_) | Ask::Remove(_) | Ask::Fail(_)
        );
        if let Some((kind, _)) = before
            && changes
        {
            self.follow(ask, kind, before.and_then(|(_, state)| state)).await?;
        }
        Ok(claims(ask, before))
    }

    /// What an ask would show, as things stand.
    pub(crate) fn shows(&self, ask: Ask) -> Vec<Claim> {
        claims(ask, ask.kind().map(|kind| (kind, self.state(kind))))
    }

    /// Whether one of these would show the claim once this was asked.
    pub(crate) fn leads_to(&self, ask: Ask, then: &[Ask], claim: Claim) -> bool {
        let Some(kind) = ask.kind() else { return false };
        let mut model = self.model.clone();
        let now = self.now + LATER;
        match ask.request() {
            // Refused: nothing is another way than before.
            Some(request) if model.apply(now, wall(), &request).is_err() => return false,
            Some(_) => {}
            None if kind.runs() && state(&model, now, kind) == Some(InstanceState::Running) => {
                model.exit(now, wall(), &kind.instance());
            }
            None => return false,
        }
        let after = state(&model, now + LATER, kind);
        let mut of_it = then.iter().filter(|then| then.kind() == Some(kind));
        of_it.any(|then| claims(*then, Some((kind, after))).contains(&claim))
    }

    /// What the model says that an instance does now.
    pub(crate) fn state(&self, kind: Kind) -> Option<InstanceState> {
        state(&self.model, self.now, kind)
    }

    /// How often the model started an instance again.
    pub(crate) fn restarts(&self, kind: Kind) -> u32 {
        let look = RuntimeRequest::Inspect { instance: kind.instance() };
        match self.model.clone().apply(self.now, wall(), &look) {
            Ok(RuntimeReply::Instance(Some(seen))) => seen.restarts,
            _ => 0,
        }
    }

    /// Makes an instance that runs fail by itself.
    async fn fail(&mut self, kind: Kind) -> Result<(), String> {
        if !kind.runs() || self.state(kind) != Some(InstanceState::Running) {
            return Ok(());
        }
        self.model.exit(self.now, wall(), &kind.instance());
        let look = RuntimeRequest::Inspect { instance: kind.instance() };
        let Ok(RuntimeReply::Instance(Some(ObservedInstance { pid: Some(pid), .. }))) =
            self.real.ask(look).await
        else {
            return Err(format!("{} does not run", kind.name));
        };
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::USR1)
            .map_err(|error| format!("{} cannot be made to fail: {error}", kind.name))
    }

    /// Waits until the instance is as the model says that it will be.
    async fn follow(
        &mut self,
        ask: Ask,
        kind: Kind,
        before: Option<InstanceState>,
    ) -> Result<(), String> {
        let at = KINDS.iter().position(|other| *other == kind).expect("one of them");
        self.now = self.now + LATER;
        let after = self.state(kind);
        let was_up = before == Some(InstanceState::Running);
        match ask {
            Ask::Create(_) if before.is_none() => self.starts[at] = 1,
            Ask::Start(_) if !was_up && after.is_some() => self.starts[at] += 1,
            Ask::Fail(_) if was_up && after == before => self.starts[at] += 1,
            _ => {}
        }
        let look = RuntimeRequest::Inspect { instance: kind.instance() };
        let model = outline(&self.model.apply(self.now, wall(), &look));
        self.until(ask, &look, &model).await?;
        if kind.runs() && after == Some(InstanceState::Running) {
            // It has said so when it handles signals.
            let said = RuntimeRequest::Logs { instance: kind.instance(), tail: 1000 };
            let lines = vec!["a line".to_owned(); self.starts[at]];
            self.until(ask, &said, &outline(&Ok(RuntimeReply::Logs(lines)))).await?;
        }
        Ok(())
    }

    async fn until(&self, ask: Ask, look: &RuntimeRequest, model: &str) -> Result<(), String> {
        let begin = Instant::now();
        let mut pause = Duration::from_millis(5);
        loop {
            let real = outline(&self.real.ask(look.clone()).await);
            if real == model {
                return Ok(());
            }
            if begin.elapsed() > self.soon {
                return Err(format!(
                    "what follows from {ask:?}\n  the model: {model}\n  the runtime: {real}"
                ));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// Removes everything.
    pub(crate) async fn clean_up(&self) {
        for kind in KINDS {
            let removed = self.real.ask(RuntimeRequest::Remove { instance: kind.instance() }).await;
            assert_eq!(removed, Ok(RuntimeReply::Done));
        }
    }
}

fn state(model: &Runtime, now: Time, kind: Kind) -> Option<InstanceState> {
    let look = RuntimeRequest::Inspect { instance: kind.instance() };
    match model.clone().apply(now, wall(), &look) {
        Ok(RuntimeReply::Instance(seen)) => seen.map(|seen| seen.state),
        other => panic!("a look was answered with {other:?}"),
    }
}

/// What an ask shows of an instance that was so before.
fn claims(ask: Ask, before: Option<(Kind, Option<InstanceState>)>) -> Vec<Claim> {
    let Some((kind, before)) = before else {
        return vec![match ask {
            Ask::ListAll => Claim::ListAll,
            Ask::ListNamespace => Claim::ListNamespace,
            _ => Claim::Images,
        }];
    };
    let of = |absent, looping, running, ended| match before {
        None => absent,
        Some(_) if kind.loops() && before_loops(before) => looping,
        Some(InstanceState::Running | InstanceState::Restarting) => running,
        Some(InstanceState::Created | InstanceState::Exited { .. }) => ended,
    };
    match ask {
        Ask::Create(_) if kind.is_missing() => vec![Claim::ImageMissing],
        Ask::Create(_) if before.is_none() => [vec![Claim::Created], by_itself(kind)].concat(),
        Ask::Create(_) => {
            vec![of(Claim::Created, Claim::TakenRunning, Claim::TakenRunning, Claim::TakenEnded)]
        }
        Ask::Start(_) if kind.runs() => vec![of(
            Claim::StartAbsent,
            Claim::StartRunning,
            Claim::StartRunning,
            Claim::StartStopped,
        )],
        Ask::Start(_) if before.is_none() => vec![Claim::StartAbsent],
        Ask::Start(_) if kind.loops() && before_loops(before) => vec![Claim::StartRunning],
        Ask::Start(_) => [vec![Claim::StartExited], by_itself(kind)].concat(),
        Ask::Stop(_) => {
            vec![of(Claim::StopAbsent, Claim::StopLooping, Claim::StopRunning, Claim::StopEnded)]
        }
        Ask::Remove(_) => vec![of(
            Claim::RemoveAbsent,
            Claim::RemoveLooping,
            Claim::RemoveRunning,
            Claim::RemoveEnded,
        )],
        Ask::Inspect(_) => vec![of(
            Claim::InspectAbsent,
            Claim::InspectRunning,
            Claim::InspectRunning,
            Claim::InspectEnded,
        )],
        // What keeps exiting may run just now or not.
        Ask::Probe(_) if kind.loops() && before.is_some() => Vec::new(),
        Ask::Probe(_) => {
            let running = if kind.image == "never" { Claim::ProbeNever } else { Claim::ProbeReady };
            vec![of(Claim::ProbeAbsent, running, running, Claim::ProbeEnded)]
        }
        Ask::Logs(_) if before.is_none() => vec![Claim::LogsAbsent],
        Ask::Logs(_) => vec![Claim::Logs],
        Ask::Settle(_) => vec![Claim::Settled],
        Ask::Fail(_) if before == Some(InstanceState::Running) && kind.runs() => {
            vec![if kind.name == "keeps" { Claim::RunsAgain } else { Claim::LeftAlone }]
        }
        _ => Vec::new(),
    }
}

fn before_loops(before: Option<InstanceState>) -> bool {
    before.is_some_and(|before| before.runs())
}

/// What a start of an instance that exits by itself shows.
fn by_itself(kind: Kind) -> Vec<Claim> {
    match kind.name {
        "exits" => vec![Claim::ExitCode, Claim::LeftAlone],
        "zero" => vec![Claim::ExitZero, Claim::LeftAfterZero],
        "fails" => vec![Claim::RestartedOnFailure],
        "loops" => vec![Claim::RestartedAlways],
        _ => Vec::new(),
    }
}

fn wall() -> UnixTime {
    UnixTime::from_millis(0)
}

/// An answer without what may differ: words, times, process ids, and how far an instance that keeps exiting is.
fn outline(result: &Result<RuntimeReply, RuntimeError>) -> String {
    match result {
        Ok(RuntimeReply::Done) => "done".to_owned(),
        Ok(RuntimeReply::Instance(there)) => there.as_ref().map_or("none".to_owned(), seen),
        Ok(RuntimeReply::Instances(all)) => {
            let mut all: Vec<_> = all.iter().map(seen).collect();
            all.sort();
            all.join(", ")
        }
        Ok(RuntimeReply::Probed(ready)) => {
            if ready.is_ok() {
                "ready".to_owned()
            } else {
                "not ready".to_owned()
            }
        }
        Ok(RuntimeReply::Facts(facts)) => format!("{} images", facts.images_present.len()),
        Ok(RuntimeReply::Logs(lines)) => format!("{lines:?}"),
        Err(RuntimeError::NameTaken { instance }) => format!("{instance} is taken"),
        Err(RuntimeError::NoSuchInstance { instance }) => format!("no {instance}"),
        Err(RuntimeError::ImageMissing { .. }) => "no such image".to_owned(),
        Err(other) => format!("another error: {other}"),
    }
}

fn seen(seen: &ObservedInstance) -> String {
    let kind = KINDS.into_iter().find(|kind| kind.name == seen.spec.name.as_str());
    let name = &seen.spec.name;
    if kind.is_some_and(|kind| kind.loops()) {
        return match seen.state {
            InstanceState::Running | InstanceState::Restarting => {
                format!("{name} keeps exiting, restarts {}", seen.restarts.min(1))
            }
            InstanceState::Exited { .. } => format!("{name} ended"),
            InstanceState::Created => format!("{name} was made"),
        };
    }
    format!("{name} {:?} restarts {}", seen.state, seen.restarts)
}
