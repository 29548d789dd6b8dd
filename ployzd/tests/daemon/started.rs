//! A daemon that is killed while it starts its sidecars.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Machine, SIDECARS, nats_server, signal};

/// How many kills have to fall between a sidecar's start and its record.
const HITS: usize = 15;
/// How many kills that may take.
const TRIES: usize = 300;

#[test]
fn a_daemon_killed_between_a_sidecars_start_and_its_record_leaves_no_process_behind() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    let mut hits = 0;
    for attempt in 0..TRIES {
        let daemon = machine.launch();
        let seen = first_child(daemon);
        // Anywhere from its first instant on: between fork and exec, during the write, after it.
        let began = Instant::now();
        while began.elapsed() < Duration::from_micros(attempt as u64 % 40 * 50) {
            std::hint::spin_loop();
        }
        let mut started = children(daemon);
        started.extend(seen);
        started.sort_unstable();
        started.dedup();
        // Not a copy of the daemon that has yet to become anything.
        started.retain(|pid| works_in(*pid, machine.directory.path()));
        machine.kill();
        let recorded: Vec<_> = SIDECARS.iter().filter_map(|name| machine.recorded(name)).collect();
        started.retain(|pid| !recorded.contains(pid));
        hits += started.len();
        let mut left = Vec::new();
        for pid in started {
            if let Some(command) = left_after_a_while(pid, machine.directory.path()) {
                signal(pid, Signal::KILL);
                left.push(command);
            }
        }
        assert!(left.is_empty(), "kill {attempt}: these run and are in no record: {left:?}");
        for (name, pid) in SIDECARS.iter().zip(SIDECARS.map(|name| machine.recorded(name))) {
            if let Some(pid) = pid {
                signal(pid, Signal::KILL);
                std::fs::remove_file(machine.path(&format!("sidecars/{name}.json"))).unwrap();
            }
        }
        if hits >= HITS {
            // And nothing that was left is in the way of the next one.
            machine.start().wait("daemon", "READY");
            machine.sidecars();
            return;
        }
    }
    panic!("of {TRIES} kills only {hits} fell between a start and its record");
}

/// The first children of a process, as soon as it has some.
fn first_child(of: u32) -> Vec<i32> {
    let began = Instant::now();
    loop {
        let children = children(of);
        if !children.is_empty() {
            return children;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "ployzd starts nothing");
    }
}

/// The children of every thread of a process.
fn children(of: u32) -> Vec<i32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{of}/task")) else { return Vec::new() };
    let texts = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    texts
        .flat_map(|text| text.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// What a process that works in this directory is, if it does not end soon.
fn left_after_a_while(pid: i32, directory: &std::path::Path) -> Option<String> {
    let began = Instant::now();
    loop {
        if !works_in(pid, directory) {
            return None;
        }
        if began.elapsed() > Duration::from_secs(10) {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            return Some(String::from_utf8_lossy(&command).replace('\0', " "));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn works_in(pid: i32, directory: &std::path::Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|here| here.starts_with(directory))
}
