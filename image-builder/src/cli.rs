//! The command line.

use std::process::ExitCode;

/// Runs the command that the process arguments ask for.
pub fn main() -> ExitCode {
    ExitCode::from(2)
}
