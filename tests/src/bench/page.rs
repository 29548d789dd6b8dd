//! The page that a run writes.

use std::fmt::Write as _;

use super::section::Section;
use super::setting;

/// The page as Markdown.
#[must_use]
pub fn page(versions: &[String], load: (&str, &str), sections: &[Section]) -> String {
    let mut out = format!(
        "# Benchmarks\n\nWritten by one run of `make bench`, which measures Ployz and its peers side by side; nothing here was edited. Figures are\n\
         medians with the smallest and the largest measurement in parentheses. Absolute figures drift from run to run: compare\n\
         within the page.\n\n\
         - Measured: {}\n- Machine: {}\n- Load average of one minute: {} before, {} after\n- Versions: {}\n\n\
         The run has network, process and mount namespaces of its own, with a Docker engine of its own in them that all competitors share.\n\
         Ployz is the release build.\n",
        setting::today(),
        setting::machine(),
        load.0,
        load.1,
        versions.join(" · "),
    );
    for section in sections {
        let _ = write!(out, "\n{}", section.render());
    }
    out
}
