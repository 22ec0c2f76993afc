//! The `lifeboat` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    lifeboat::cli::run()
}
