//! What the process runtime cannot give. The planner refuses it before anything changes; the runtime itself leaves nothing out in silence.

use super::{Network, Workload};

/// What stands for the machine itself where an image is named: there is none.
pub const HOST: &str = "host";

/// A key of the manifest that a plain process cannot have as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsupported {
    /// As the manifest names it.
    pub key: &'static str,
    /// Why, and what to write instead if there is something.
    pub why: &'static str,
}

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`: {}", self.key, self.why)
    }
}

/// Everything that the workload asks for and a plain process cannot have, in the order of the manifest's description.
#[must_use]
pub fn unsupported(workload: &Workload) -> Vec<Unsupported> {
    let image = workload.image.as_str();
    let limit = "a process has no limit but the machine's";
    let capabilities = "a process has those of the daemon's user";
    [
        (!matches!(image, "" | HOST), "image", "a process is a command of the machine"),
        (
            workload.entrypoint.is_empty() && workload.command.is_empty(),
            "command",
            "without an image there is no other",
        ),
        (workload.cpu_limit_millis.is_some(), "resources.cpu", limit),
        (workload.memory_limit_bytes.is_some(), "resources.memory", limit),
        (workload.network == Network::None, "network", "a process has the machine's"),
        (
            !workload.publish.is_empty(),
            "publish",
            "a process listens on the machine itself: on PORT, or on ports of its own with `network = \"host\"`",
        ),
        (!workload.cap_add.is_empty(), "cap_add", capabilities),
        (!workload.cap_drop.is_empty(), "cap_drop", capabilities),
    ]
    .into_iter()
    .filter_map(|(asked, key, why)| asked.then_some(Unsupported { key, why }))
    .collect()
}
