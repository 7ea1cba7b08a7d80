//! The `delta-stream` program: hands over to the command line and returns its exit code.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::run()
}
