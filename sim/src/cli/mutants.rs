//! `mutants`: bugs planted on purpose, and what it takes to see them.

use std::time::Duration;

#[cfg(not(feature = "mutants"))]
pub(crate) fn mutants(
    _: &str,
    _: usize,
    _: Duration,
    _: &[u64],
    _: Option<&std::path::Path>,
) -> Result<bool, String> {
    Err("this build has no bugs to plant: build it with `--features mutants`".to_owned())
}

#[cfg(feature = "mutants")]
pub(crate) fn mutants(
    only: &str,
    threads: usize,
    within: Duration,
    later: &[u64],
    write: Option<&std::path::Path>,
) -> Result<bool, String> {
    use sim::measure::{Measured, Row, measure, name, rows, scenarios};

    let scenarios = scenarios()?;
    let none =
        Row { planted: Vec::new(), remark: "nothing planted", masked: true, looking_for: None };
    if let Some(page) = write {
        super::around(page, "mutants")?;
    }
    let wanted = |row: &Row| {
        let name = if row.planted.is_empty() { "nothing".to_owned() } else { name(&row.planted) };
        name.contains(only)
    };
    let all: Vec<_> = std::iter::once(none).chain(rows()).filter(wanted).collect();
    if all.is_empty() {
        return Err(format!("no row's name holds {only:?}"));
    }
    let mut good = true;
    let mut table = vec![
        "| planted | seen by | crashes | faults | in | schedules | |".to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    for row in all {
        let Measured { caught, schedules, took } =
            measure(&row, &scenarios, later, within, threads);
        good &= caught.is_some() != row.masked;
        let planted =
            if row.planted.is_empty() { "nothing".to_owned() } else { name(&row.planted) };
        let line = match &caught {
            Some(caught) => {
                let (crashes, faults) = caught.needed;
                let by = caught.violation.invariant;
                format!(
                    "| {planted} | {by} | {crashes} | {faults} | {} | {schedules} | {} |",
                    caught.scenario, row.remark
                )
            }
            None => format!("| {planted} | 0 violations | | | | {schedules} | {} |", row.remark),
        };
        say!("{line} {:.1} s", took.as_secs_f64());
        if let Some(caught) = &caught {
            say!("    {} '{}'", caught.violation, caught.report.schedule());
        }
        table.push(line);
    }
    if let Some(page) = write {
        super::write_between(page, "mutants", &table)?;
    }
    Ok(good)
}

/// Plants each bug and plays stories until one shows it.
#[cfg(not(feature = "mutants"))]
pub(crate) fn in_stories(
    _: &str,
    _: u64,
    _: usize,
    _: Option<&std::path::Path>,
) -> Result<bool, String> {
    mutants("", 1, Duration::ZERO, &[], None)
}

/// Plants each bug and plays stories until one shows it.
#[cfg(feature = "mutants")]
pub(crate) fn in_stories(
    only: &str,
    most: u64,
    threads: usize,
    write: Option<&std::path::Path>,
) -> Result<bool, String> {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use sim::measure::{in_stories, name, story_rows};

    let wanted: Vec<_> =
        story_rows().into_iter().filter(|row| name(&row.planted).contains(only)).collect();
    if wanted.is_empty() {
        return Err(format!("no row's name holds {only:?}"));
    }
    if let Some(page) = write {
        super::around(page, "mutants-in-stories")?;
    }
    let next = AtomicUsize::new(0);
    let lines = Mutex::new(vec![(String::new(), true); wanted.len()]);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(row) = wanted.get(at) else { return };
                    let found = in_stories(row, most);
                    let (name, (from, to)) = (name(&row.planted), row.nodes);
                    let head = format!("| {name} | {from}–{to} |");
                    let line = match &found.caught {
                        Some((seed, violation)) => {
                            format!("{head} {} | {seed} | {} |", found.stories, violation.invariant)
                        }
                        None => format!("{head} none of {} | | |", found.stories),
                    };
                    say!("{line} {:.1} s", found.took.as_secs_f64());
                    let mut lines = lines.lock().expect("no thread panics with it");
                    lines[at] = (line, found.caught.is_some());
                }
            });
        }
    });
    let lines = lines.into_inner().expect("every thread has ended");
    let good = lines.iter().all(|(_, caught)| *caught);
    if let Some(page) = write {
        let mut table = vec![
            "| planted | machines | stories until caught | seed | seen by |".to_owned(),
            "|---|---|---|---|---|".to_owned(),
        ];
        table.extend(lines.into_iter().map(|(line, _)| line));
        super::write_between(page, "mutants-in-stories", &table)?;
    }
    Ok(good)
}
