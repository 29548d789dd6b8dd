//! What a machine is told over the bus and what it keeps on its disk: a fence file in the first line, a command in each other one.

use std::collections::BTreeMap;

use proto_core::Outcome;
use proto_core::api::OperationSummary;
use proto_core::coordination::command::{Command, CommandBody, CommandReply};
use proto_core::coordination::{FenceFile, Plan};
use proto_core::daemon::{
    Completion, Effect, EffectKind, Input, Node, NodeConfig, ReplyToken, RoutesRequest,
};
use proto_core::id::{Epoch, MachineId};
use proto_core::runtime::{InstanceSpec, ObservedInstance};
use proto_core::services::Record;
use proto_core::store::Scope;
use proto_core::time::{Time, UnixTime};
use sim::world::runtime::Runtime;

use crate::stable;

/// How many commands are read, and how many effects and wake-ups may follow.
const MOST_COMMANDS: usize = 16;
const MOST_STEPS: usize = 2000;

/// Hands the commands to a machine, one after the other.
pub fn run(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or(&[]);
    stable::read_as!(
        first; CommandReply, Plan, InstanceSpec, ObservedInstance, OperationSummary, Record, Command,
    );
    let fence = stable::read::<FenceFile>(first).unwrap_or_default();
    let commands: Vec<_> = lines.filter_map(stable::read::<Command>).take(MOST_COMMANDS).collect();
    let mut machine = Machine::new(fence);
    for (command, token) in commands.into_iter().zip(0..) {
        machine.told(ReplyToken(token), command);
    }
    machine.rest();
}

struct Machine {
    node: Node,
    runtime: Runtime,
    now: Time,
    /// The highest epoch of each scope that a command brought.
    floors: BTreeMap<Scope, Epoch>,
    /// Commands that were below the floor when they came.
    stale: BTreeMap<ReplyToken, bool>,
    steps: usize,
}

impl Machine {
    fn new(fence: FenceFile) -> Self {
        let mut floors = BTreeMap::<Scope, Epoch>::new();
        for (scope, epoch) in &fence.floors {
            // The first of a scope counts, whatever a hostile file has beside.
            floors.entry(scope.clone()).or_insert(*epoch);
        }
        let machine = MachineId::new("m1").expect("a letter, a digit");
        let node = Node::new(NodeConfig { machine, runtime: "model".to_owned(), seed: 1, fence });
        let mut this = Self {
            node,
            runtime: Runtime::default(),
            now: Time::ZERO,
            floors,
            stale: BTreeMap::new(),
            steps: 0,
        };
        this.drain();
        this
    }

    fn told(&mut self, token: ReplyToken, command: Command) {
        let fenced = match &command.body {
            CommandBody::Observe { .. } => None,
            CommandBody::Barrier { scope, epoch } | CommandBody::Perform { scope, epoch, .. } => {
                Some((scope.clone(), *epoch))
            }
        };
        let mut stale = false;
        if let Some((scope, epoch)) = fenced {
            let floor = self.floors.entry(scope.clone()).or_default();
            stale = epoch < *floor;
            *floor = (*floor).max(epoch);
        }
        self.stale.insert(token, stale);
        self.input(Input::Command { token, command: Box::new(command) });
        for (scope, floor) in &self.floors {
            assert_eq!(self.node.fence().floor(scope), *floor, "the floor of {scope}");
        }
    }

    fn input(&mut self, input: Input) {
        self.node.handle_input(self.now, UnixTime::default(), input);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(effect) = self.node.poll_effect() {
            self.steps += 1;
            assert!(self.steps < MOST_STEPS, "it spins");
            if let Some(completion) = self.carry_out(&effect) {
                let input = Input::Done { id: effect.id, completion };
                self.node.handle_input(self.now, UnixTime::default(), input);
            }
        }
    }

    fn carry_out(&mut self, effect: &Effect) -> Option<Completion> {
        Some(match &effect.kind {
            EffectKind::Reply { token, reply } => {
                let stale = self.stale.remove(token).expect("a command is answered once");
                if stale {
                    assert!(matches!(**reply, CommandReply::Stale { .. }), "{reply:?}");
                }
                let text = serde_json::to_vec(reply).expect("replies are plain JSON");
                assert_eq!(stable::read::<CommandReply>(&text).as_ref(), Some(&**reply));
                return None;
            }
            EffectKind::Runtime(request) => {
                let done = self.runtime.apply(self.now, UnixTime::default(), request);
                Completion::Runtime(match done {
                    Ok(reply) => Outcome::Ok(reply),
                    Err(error) => Outcome::Failed(error),
                })
            }
            EffectKind::Persist(file) => {
                let text = serde_json::to_vec(file).expect("fence files are plain JSON");
                assert_eq!(stable::read::<FenceFile>(&text).as_ref(), Some(file));
                Completion::Persist(Ok(()))
            }
            EffectKind::Routes(RoutesRequest::Applied { .. }) => {
                Completion::Routes(Err("nobody answers".to_owned()))
            }
            EffectKind::Routes(RoutesRequest::Drained { .. }) => Completion::Routes(Ok(None)),
            EffectKind::Store(_) | EffectKind::Send { .. } => {
                panic!("a participant asks neither store nor machines: {effect:?}")
            }
        })
    }

    /// Lets time pass until every command is answered.
    fn rest(&mut self) {
        while let Some((at, _)) = self.node.poll_timeout() {
            self.steps += 1;
            if self.steps >= MOST_STEPS {
                // A readiness may be probed a thousand times; what is asked is whether the clock moves.
                return;
            }
            self.now = self.now.max(at);
            self.input(Input::Timeout);
        }
        assert!(self.stale.is_empty(), "never answered: {:?}", self.stale);
        assert!(self.node.is_idle());
    }
}
