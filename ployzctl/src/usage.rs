//! A command line that is not understood is an error like every other: a code, a sentence, the next command.

use std::ffi::OsString;

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use proto_core::api::ErrorBody;

use crate::args::Cli;
use crate::failure::{Failure, USAGE};

/// What to say of it; the exit code. Help and version are no errors: they are printed as they are.
pub(crate) fn refuse(error: &clap::Error, args: &[OsString]) -> u8 {
    let args: Vec<_> = args.iter().skip(1).map(|arg| arg.to_string_lossy()).collect();
    let json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => error.exit(),
        // The commands there are say more than that one is missing.
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand if !json => error.exit(),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            refusal("a command is missing", &args).report(json)
        }
        _ => refusal(&sentence(&error.to_string()), &args).report(json),
    }
}

fn refusal(message: &str, args: &[impl AsRef<str>]) -> Failure {
    let next = format!("ployzctl{} --help", command(args));
    Failure::new(USAGE, ErrorBody::new("USAGE", message).next(next))
}

/// The command that was meant, each of its words behind a blank.
fn command(args: &[impl AsRef<str>]) -> String {
    let mut known = &Cli::command();
    let mut out = String::new();
    let mut words = args.iter().map(AsRef::as_ref);
    while let Some(word) = words.next() {
        match word {
            "--socket" | "--timeout" => _ = words.next(),
            option if option.starts_with('-') => {}
            word => {
                let Some(sub) = known.find_subcommand(word) else { break };
                out += &format!(" {}", sub.get_name());
                known = sub;
            }
        }
    }
    out
}

/// What clap says, on one line and without what `--help` repeats.
fn sentence(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let text = text.split("\n\nUsage:").next().unwrap_or(text);
    let text = text.split("\n\nFor more information").next().unwrap_or(text);
    let mut out = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        out += match out.chars().next_back() {
            None => "",
            Some(':') => " ",
            Some(_) => "; ",
        };
        out += line;
    }
    out
}
