//! The command `pcr-measure`: arguments and files around the library.

mod cli;

use std::process::ExitCode;

use pcr_measure::command;

/// Where tpm2-tss reads how much it writes to standard error (its doc/logging.md).
#[cfg(feature = "tpm")]
const TSS2_LOG: &str = "TSS2_LOG";

/// Errors of the TPM are told once, in our words; who wants the library's too sets
/// the variable.
#[cfg(feature = "tpm")]
#[allow(unsafe_code)]
fn quieten_tss() {
    if std::env::var_os(TSS2_LOG).is_none() {
        // SAFETY: the process has one thread, and nothing has read the environment
        // so that it would keep a pointer into it.
        unsafe { std::env::set_var(TSS2_LOG, "all+none") };
    }
}

fn main() -> ExitCode {
    #[cfg(feature = "tpm")]
    quieten_tss();
    command::main("pcr-measure", cli::run)
}
