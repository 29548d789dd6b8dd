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
    let all = std::iter::once(none).chain(rows());
    let mut good = true;
    let mut table = vec![
        "| planted | seen by | crashes | faults | in | schedules | |".to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    for row in all.filter(|row| row.planted.is_empty() || name(row).contains(only)) {
        let Measured { caught, schedules, took } =
            measure(&row, &scenarios, later, within, threads);
        good &= caught.is_some() != row.masked;
        let planted = if row.planted.is_empty() { "nothing".to_owned() } else { name(&row) };
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
        println!("{line} {:.1} s", took.as_secs_f64());
        if let Some(caught) = &caught {
            println!("    {} '{}'", caught.violation, caught.report.schedule());
        }
        table.push(line);
    }
    if let Some(page) = write {
        super::write_between(page, "mutants", &table)?;
    }
    Ok(good)
}
