//! Figures for people: what a run took, and tables in pages.

use std::path::Path;

/// Puts lines between the marks of a page, in place of what was there.
///
/// # Errors
///
/// If the page cannot be read or written, or has no such marks.
pub fn write_between(page: &Path, mark: &str, lines: &[String]) -> Result<(), String> {
    let (head, tail) = around(page, mark)?;
    let text = format!("{head}\n{}\n{tail}", lines.join("\n"));
    std::fs::write(page, text)
        .map_err(|error| format!("{} cannot be written: {error}", page.display()))
}

/// The page up to the first mark and from the second one on, both with the mark: whoever is about to measure for long asks first.
///
/// # Errors
///
/// If the page cannot be read, or has no such marks.
pub fn around(page: &Path, mark: &str) -> Result<(String, String), String> {
    let text = std::fs::read_to_string(page)
        .map_err(|error| format!("{} cannot be read: {error}", page.display()))?;
    let (begin, end) = (format!("<!-- {mark} -->"), format!("<!-- /{mark} -->"));
    let begun = text.find(&begin).map(|at| at + begin.len());
    let ended = begun.and_then(|at| Some(at + text[at..].find(&end)?));
    match (begun, ended) {
        (Some(begun), Some(ended)) => Ok((text[..begun].to_owned(), text[ended..].to_owned())),
        _ => Err(format!("{} has no marks {begin} and {end}", page.display())),
    }
}

/// From here on [`peak_memory`] counts anew. Where the system cannot do that it goes on as before.
pub fn reset_peak_memory() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// How much memory this process has taken at most, in bytes; 0 where that cannot be read.
#[must_use]
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// How long this process has computed on all cores together, in seconds; 0 where that cannot be read.
#[must_use]
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the name in brackets: the state is field 3, user and system time are 14 and 15, in hundredths of a second.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
    let ticks = fields.skip(11).take(2).filter_map(|field| field.parse::<u32>().ok());
    f64::from(ticks.sum::<u32>()) / 100.0
}
