//! The command, run in the directory of the vectors.

use std::path::PathBuf;
use std::process::Command;

/// What a command said, and its exit code.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A file of `tests/vectors`.
pub(crate) fn vector(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

/// The nonce of the quotes: `msec-boot`.
pub(crate) const NONCE: &str = "6d7365632d626f6f74";

/// The command that verifies a quote of the vectors.
pub(crate) fn quote(name: &str, key: &str) -> String {
    format!(
        "verify-quote --message quote-{name}.msg --signature quote-{name}.sig --key quote-{key}.pub \
         --nonce {NONCE} --pcrs 0,1,8,9,15 --values quote-{name}.pcrs"
    )
}

/// Runs the command in the directory of the vectors; arguments are separated by
/// blanks.
pub(crate) fn run(line: &str) -> Ran {
    run_with(&line.split_whitespace().collect::<Vec<_>>())
}

/// The same, argument by argument.
pub(crate) fn run_with(arguments: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_pcr-measure"))
        .args(arguments)
        .current_dir(vector(""))
        .output()
        .unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
