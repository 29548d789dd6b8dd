//! The program; everything is in the library, so that the simulator can run the same daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    ployzd::main()
}
