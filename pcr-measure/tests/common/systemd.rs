//! systemd's PCR tools on an emulated TPM.

use std::path::Path;
use std::process::Command;

use crate::common::Tpm;
use serde_json::Value;

/// Where Debian has them; they are not on the path.
const DIR: &str = "/usr/lib/systemd";

/// Whether `tool` is there; without it the test is skipped, or fails where
/// `MSEC_REQUIRE_TOOLS` is in the environment.
pub(crate) fn has(tool: &str) -> bool {
    let found = Path::new(DIR).join(tool).is_file();
    if !found {
        assert!(std::env::var_os("MSEC_REQUIRE_TOOLS").is_none(), "{tool} is not installed");
        eprintln!("skipped: {DIR}/{tool} is not installed (systemd 257 is needed)");
    }
    found
}

/// Runs a tool that reads, or writes, these logs; its output.
pub(crate) fn run(tpm: &Tpm, arguments: &[&str], firmware: &Path, userspace: &Path) -> String {
    let (tool, arguments) = arguments.split_first().unwrap();
    let output = Command::new(Path::new(DIR).join(tool))
        .args(arguments)
        .env("SYSTEMD_TPM2_DEVICE", format!("swtpm:path={}", tpm.path("tpm").display()))
        .env("SYSTEMD_MEASURE_LOG_FIRMWARE", firmware)
        .env("SYSTEMD_MEASURE_LOG_USERSPACE", userspace)
        // Otherwise it measures only where systemd-stub has.
        .env("SYSTEMD_FORCE_MEASURE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// What systemd-pcrlock makes of these logs: its list of records, or its table.
pub(crate) fn pcrlock(tpm: &Tpm, verb: &str, firmware: &Path, userspace: &Path) -> Value {
    let text = run(tpm, &["systemd-pcrlock", verb, "--json=short"], firmware, userspace);
    serde_json::from_str(&text).unwrap()
}

/// One measurement as it lists them: PCR, digests by bank, in order of the
/// names.
pub(crate) type Measured = (u64, Vec<(String, String)>);

/// The measurements of `cel`.
pub(crate) fn measured(cel: &Value) -> Vec<Measured> {
    let digest = |digest: &Value| {
        let text = |key: &str| digest[key].as_str().unwrap().to_owned();
        (text("hashAlg"), text("digest"))
    };
    let record = |record: &Value| {
        let mut digests: Vec<_> =
            record["digests"].as_array().unwrap().iter().map(digest).collect();
        digests.sort();
        (record["pcr"].as_u64().unwrap(), digests)
    };
    cel.as_array().unwrap().iter().map(record).collect()
}
