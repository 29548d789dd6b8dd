//! Every measured figure, with the peers in the same run. Only release builds are measured.
//!
//! | file | holds |
//! |---|---|
//! | `apart` | a world of its own for the run, which ends with it |
//! | `deploy`, `idle`, `gateway`, `plan` | a figure each |
//! | `programs`, `setting` | what is measured, and on what |
//! | `peers` | nginx and haproxy as proxies, wrk |
//! | `procfs` | memory and processor time of a process |
//! | `stats`, `section`, `page` | median and spread, tables and bounds, the page |

pub mod apart;
mod deploy;
mod gateway;
mod idle;
mod page;
mod peers;
mod plan;
mod procfs;
mod programs;
mod section;
mod setting;
mod stats;

use std::pin::Pin;

pub use page::page;
pub use programs::Programs;
pub use section::{Bound, Section, Table};
pub use setting::{load, machine, versions};
pub use stats::Samples;

type Run = for<'a> fn(&'a Programs) -> Pin<Box<dyn Future<Output = anyhow::Result<Section>> + 'a>>;

/// Something that is measured.
#[derive(Clone, Copy)]
pub struct Figure {
    /// Its name on the command line.
    pub name: &'static str,
    /// Roughly how long it takes.
    pub takes: &'static str,
    run: Run,
}

impl Figure {
    /// Measures.
    ///
    /// # Errors
    ///
    /// If something does not work. A bound that is missed is no error: the section says so.
    pub async fn run(&self, programs: &Programs) -> anyhow::Result<Section> {
        (self.run)(programs).await
    }
}

impl std::fmt::Debug for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Every figure.
pub const FIGURES: &[Figure] = &[
    Figure { name: "deploy", takes: "2 min", run: |programs| Box::pin(deploy::run(programs)) },
    Figure { name: "idle", takes: "2 min", run: |programs| Box::pin(idle::run(programs)) },
    Figure { name: "gateway", takes: "2 min", run: |programs| Box::pin(gateway::run(programs)) },
    Figure { name: "plan", takes: "5 s", run: |_| Box::pin(async { plan::run() }) },
];
