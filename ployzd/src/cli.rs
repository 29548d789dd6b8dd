//! The command line.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::config::Config;
use crate::{fit, init, roles, run};

/// What is logged if `PLOYZ_LOG` says nothing else. The NATS library tells each failed attempt to connect in several lines; what is worth
/// knowing of it, our own link tells once. The DNS library tells every query.
const LOG: &str = "info,async_nats=off,hickory_server=warn";

/// What `--version` says. A build that is not the one that ships says so: nothing about it is to be measured.
const VERSION: &str = match (cfg!(debug_assertions), cfg!(feature = "failpoints")) {
    (false, false) => env!("CARGO_PKG_VERSION"),
    (true, false) => concat!(env!("CARGO_PKG_VERSION"), " (debug build)"),
    (_, true) => concat!(env!("CARGO_PKG_VERSION"), " (with failpoints)"),
};

/// The daemon of a Ployz machine.
#[derive(Debug, Parser)]
#[command(version = VERSION, about)]
struct Args {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, clap::Subcommand)]
enum Role {
    /// Found a cluster on this machine: writes configuration and keys, starts nothing.
    Init(init::InitArgs),
    /// Run the daemon.
    Run {
        /// Its configuration.
        #[arg(long)]
        config: PathBuf,
    },
    /// Say whether the daemon could start: its socket's place and its ports must be free. Starts nothing.
    Check {
        /// Its configuration.
        #[arg(long)]
        config: PathBuf,
    },
    /// Run the gateway (started by the daemon).
    Gateway {
        /// Its configuration.
        #[arg(long)]
        config: PathBuf,
    },
    /// Run the DNS server (started by the daemon).
    Dns {
        /// Its configuration.
        #[arg(long)]
        config: PathBuf,
    },
    /// Keep one process of the process runtime (started by the daemon).
    #[command(hide = true)]
    Supervise {
        /// What the daemon says.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// The program `ployzd`: reads its arguments and does what they say.
#[must_use]
pub fn main() -> ExitCode {
    // Before anything else is set up: a supervisor is to be as small as it can be.
    let mut raw = std::env::args_os().skip(1);
    if raw.next().is_some_and(|role| role == "supervise") {
        return io_adapters::process::supervise(&raw.collect::<Vec<_>>());
    }
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("PLOYZ_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOG)),
        )
        .with_ansi(false)
        .with_writer(std::io::stderr)
        // A line that cannot be written, as on a full disk, is lost. To complain about it on stderr would be a panic.
        .log_internal_errors(false)
        .init();
    let result = match args.role {
        Role::Init(args) => init::init(args),
        Role::Run { config } => return run::run(&config),
        Role::Check { config } => Config::load(&config).and_then(|config| fit::check(&config)),
        Role::Gateway { config } => roles::gateway(&config),
        Role::Dns { config } => roles::dns(&config),
        Role::Supervise { .. } => unreachable!("handled before the arguments are parsed"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            if let Some(fit::Refusal(body)) = error.downcast_ref() {
                // Nobody may be left to read it; the exit code says it too.
                _ = writeln!(std::io::stdout(), "{}", serde_json::json!(body));
                return ExitCode::from(2);
            }
            ExitCode::FAILURE
        }
    }
}
