//! What the figures were measured on, in neutral words.

use std::path::Path;

use super::programs::{Programs, first_line};

/// The machine, and the load on it just now.
#[must_use]
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("processor unknown", |(_, name)| name.trim());
    let memory = read("/proc/meminfo");
    let kib: f64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
        .unwrap_or(f64::NAN);
    let kernel = read("/proc/sys/kernel/osrelease");
    // What follows the numbers names the builder.
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    let virtual_machine = if info.contains("hypervisor") { "virtual machine, " } else { "" };
    format!(
        "{virtual_machine}{cores} cores ({model}), {:.0} GiB of memory, Linux {kernel}",
        kib / 1024.0 / 1024.0
    )
}

/// The load average over one minute.
#[must_use]
pub fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

/// The day, in UTC.
#[must_use]
pub(super) fn today() -> String {
    first_line(Path::new("date"), &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default()
}

/// Ployz and everything that it is compared with.
///
/// # Errors
///
/// If a program is missing.
pub fn versions(programs: &Programs) -> anyhow::Result<Vec<String>> {
    let version = |program: &str, arguments: &[&str]| first_line(Path::new(program), arguments);
    let wrk = version("wrk", &["-v"])?;
    Ok(vec![
        first_line(&programs.parts.ployzd, &["--version"])?,
        programs.parts.nats.clone(),
        version("dockerd", &["--version"])?,
        version("nginx", &["-v"])?.replace("version: ", ""),
        version("haproxy", &["-v"])?.split(" - ").next().unwrap_or_default().to_owned(),
        wrk.split(" [").next().unwrap_or_default().to_owned(),
    ])
}
