//! The command `ima-policy`: arguments and files around the library.

mod cli;

use std::process::ExitCode;

use pcr_measure::command;

fn main() -> ExitCode {
    command::main("ima-policy", cli::run)
}
