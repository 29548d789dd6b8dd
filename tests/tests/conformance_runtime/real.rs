//! The real parts: processes of the host, and containers of a Docker engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use io_adapters::docker::{Docker, DockerConfig};
use io_adapters::process::{Processes, Supervisor};
use io_adapters::runtime::Runtime;
use proto_core::Outcome;
use proto_core::runtime::{Network, RuntimeError, RuntimeReply, RuntimeRequest};
use tests::docker::TestDocker;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ployz-test-process");
/// An image that is nowhere.
const NOWHERE: &str = "ployz-test-nowhere:1";

/// Where instances come from; each [`Part::fresh`] of it sees its own only.
#[derive(Clone)]
pub(crate) enum Source {
    Processes,
    Docker(Arc<TestDocker>),
}

/// A runtime with nothing in it.
pub(crate) struct Part {
    runtime: Runtime,
    source: Source,
    _state: Option<tempfile::TempDir>,
}

impl Source {
    pub(crate) fn docker() -> Option<Self> {
        Some(Self::Docker(Arc::new(TestDocker::connect_or_start()?)))
    }

    pub(crate) fn has_images(&self) -> bool {
        matches!(self, Self::Docker(_))
    }

    pub(crate) fn fresh(&self) -> Part {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let source = self.clone();
        match self {
            Self::Processes => {
                let state = tempfile::tempdir().expect("a directory");
                let supervisor =
                    Supervisor { program: PROGRAM.into(), arguments: vec!["supervise".into()] };
                let runtime = Runtime::Processes(Processes::new(state.path(), supervisor));
                Part { runtime, source, _state: Some(state) }
            }
            Self::Docker(engine) => {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                let cluster = format!("conformance-{}-{number}", std::process::id());
                let socket = engine.socket().to_owned();
                let docker = Docker::new(DockerConfig { socket, cluster, dns: None });
                Part { runtime: Runtime::Docker(docker), source, _state: None }
            }
        }
    }
}

impl Part {
    /// Asks what the model was asked, in this part's words.
    pub(crate) async fn ask(&self, request: RuntimeRequest) -> Result<RuntimeReply, RuntimeError> {
        let request = match request {
            RuntimeRequest::Create { mut spec } => {
                spec.workload.image = self.image(&spec.workload.image);
                if matches!(self.source, Source::Processes) {
                    // There is one network only.
                    spec.workload.network = Network::Overlay;
                }
                RuntimeRequest::Create { spec }
            }
            RuntimeRequest::Facts { images, ports } => {
                let images = images.iter().map(|image| self.image(image)).collect();
                RuntimeRequest::Facts { images, ports }
            }
            other => other,
        };
        match self.runtime.execute(request.clone()).await {
            Outcome::Ok(reply) => Ok(reply),
            Outcome::Failed(error) => Err(error),
            other => panic!("{request:?} ended as {other:?}"),
        }
    }

    fn image(&self, model: &str) -> String {
        match &self.source {
            _ if model == "missing" => NOWHERE.to_owned(),
            Source::Processes => String::new(),
            Source::Docker(engine) => engine.image().to_owned(),
        }
    }
}
