//! One machine's host: the driver and the API of ployzd, as the program starts them, over modelled ports.

use std::sync::Arc;

use ployzd::api::{self, About, Api};
use ployzd::clock::Clock;
use ployzd::driver::{self, Handle};
use ployzd::events::Events;
use proto_core::coordination::command::Command;
use proto_core::daemon::{Node, NodeConfig};
use sim::invariants::Seen;
use sim::world::bus::Open;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::net::Stream;
use crate::outliving::Work;
use crate::ports::Modelled;
use crate::shared::{Shared, wall};
use crate::wire;

/// Where a machine takes commands.
pub(crate) const COMMANDS: u16 = 4100;
/// Where its API listens.
pub(crate) const API: u16 = 80;

/// What runs on a machine until it is crashed.
pub(crate) async fn run(
    machine: usize,
    shared: Shared,
    work: mpsc::UnboundedSender<Work>,
) -> turmoil::Result {
    let name = shared.names().swap_remove(machine);
    let mut commands = shared.net.bind(&name, COMMANDS).await?;
    let listener = shared.net.bind(&name, API).await?;
    let (config, boot) = {
        let state = shared.lock();
        let boot = state.boots[machine];
        let config = NodeConfig {
            machine: state.world.machines[machine].clone(),
            runtime: "model".to_owned(),
            seed: (machine as u64 + 1) * 1_000_003 + u64::from(boot),
            fence: state.world.fences[machine].clone(),
        };
        (config, boot)
    };
    let about = About {
        cluster: "model".to_owned(),
        cluster_id: "00000000c0ffee00".to_owned(),
        machine: config.machine.clone(),
        runtime: config.runtime.clone(),
        data_dir: "/var/lib/ployz".into(),
    };
    let clock = Clock::with_wall(wall);
    let events = Arc::new(Events::new(clock));
    let ports = Arc::new(Modelled { machine, boot, shared: shared.clone(), work });
    let driver = driver::start(Node::new(config), ports.clone(), clock, Arc::clone(&events));
    let (stop, _stopped) = mpsc::channel(1);
    let api = Api { about, driver: driver.clone(), ports, events, clock, stop };
    // They end with the daemon.
    let mut tasks = JoinSet::new();
    tasks.spawn(api::serve(listener, Arc::new(api)));
    loop {
        let stream = commands.accept().await?;
        while tasks.try_join_next().is_some() {}
        tasks.spawn(answer(stream, machine, driver.clone(), shared.clone()));
    }
}

/// Takes one command and answers it. If its sender goes away meanwhile, the node works on it all the same.
async fn answer(mut stream: Stream, machine: usize, driver: Handle, shared: Shared) {
    let Ok(command) = wire::read::<Command>(&mut stream).await else { return };
    let token = {
        let mut state = shared.lock();
        let boot = state.boots[machine];
        let open = Open { origin: None, at: machine, boot, command: command.clone() };
        let token = state.bus.deliver(open);
        state.see(&Seen::Delivered { machine, token, command: &command });
        token
    };
    let Some(reply) = driver.command(command).await else { return };
    {
        let mut state = shared.lock();
        state.bus.answer(token);
        state.see(&Seen::Replied { machine, token, reply: &reply });
    }
    let _ = wire::write(&mut stream, &reply).await;
}
