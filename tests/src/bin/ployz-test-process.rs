//! What the tests of the process runtime start: the supervisor's role, and a launcher that can be killed.
//!
//! `supervise …`: the supervisor. `create STATE SPEC`: makes the instance of the file SPEC, says so, and stays. `stop STATE NAME MILLIS`: stops it,
//! saying so first.

use std::ffi::OsString;
use std::io::{Write as _, stdout};
use std::process::ExitCode;

use io_adapters::process::{Processes, Supervisor, supervise};
use proto_core::runtime::RuntimeRequest;
use proto_core::span::Span;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|role| role == "supervise") {
        return supervise(&arguments[1..]);
    }
    let text: Vec<_> = arguments.iter().filter_map(|argument| argument.to_str()).collect();
    let supervisor = Supervisor {
        program: std::env::current_exe().expect("a program"),
        arguments: vec!["supervise".into()],
    };
    let (state, request) = match text[..] {
        ["create", state, spec] => {
            let spec = std::fs::read(spec).expect("a file");
            let spec = serde_json::from_slice(&spec).expect("a spec");
            (state, RuntimeRequest::Create { spec: Box::new(spec) })
        }
        ["stop", state, name, millis] => {
            let grace = Span::from_millis(millis.parse().expect("a number"));
            let instance = name.parse().expect("a name");
            (state, RuntimeRequest::Stop { instance, grace })
        }
        _ => panic!("unknown arguments {text:?}"),
    };
    let processes = Processes::new(state, supervisor);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        say("begun");
        let outcome = processes.execute(request).await;
        say(&format!("{outcome:?}"));
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

fn say(line: &str) {
    let mut out = stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("somebody reads");
}
