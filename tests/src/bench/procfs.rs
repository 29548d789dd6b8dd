//! Memory and processor time of a process, from `/proc`.

use std::time::Duration;

use anyhow::Context as _;

/// Memory of a process, in MiB.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Memory {
    /// Resident, shared pages counted in full.
    pub(super) rss: f64,
    /// Resident, each shared page divided among those who share it.
    pub(super) pss: f64,
}

pub(super) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).context(path)?;
    let mib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0).with_context(|| format!("no {name} in smaps_rollup"))
    };
    Ok(Memory { rss: mib("Rss:")?, pss: mib("Pss:")? })
}

/// Processor time of a process and its threads so far, ended ones too. Exact to a tick of 10 ms.
pub(super) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).context(path)?;
    // The name before it may hold anything, `)` included.
    let (_, rest) = text.rsplit_once(") ").context("/proc/PID/stat has a name")?;
    let field = |number: usize| rest.split(' ').nth(number)?.parse::<u64>().ok();
    // utime and stime are fields 14 and 15; state, the first of `rest`, is field 3.
    let ticks = field(11).zip(field(12)).map(|(user, system)| user + system);
    let ticks = ticks.context("/proc/PID/stat has times")?;
    // USER_HZ is 100 wherever this runs.
    Ok(Duration::from_millis(10 * ticks))
}

/// How often the threads of a process went to sleep so far.
pub(super) fn switches(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(status) = std::fs::read_to_string(task?.path().join("status")) else { continue };
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.and_then(|line| line.trim().parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

/// How many threads a process has.
pub(super) fn threads(pid: u32) -> anyhow::Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/task"))?.count())
}
