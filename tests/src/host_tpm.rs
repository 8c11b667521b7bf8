//! A device's TPM without its board, used with Debian's tpm2-tools: what someone
//! has who took the TPM, or who runs unmeasured code on the board. Independent of
//! the code under test.

use std::{path::PathBuf, process::Command};

use emulated_board::{SoftTpm, tpm::ServedTpm};
use pcr_measure::{Sha256Digest, manifest::Manifest};

/// A TPM that was just powered on: all PCRs zero.
#[derive(Debug)]
pub struct HostTpm {
    served: ServedTpm,
    dir: tempfile::TempDir,
}

/// What a tool said when it failed.
#[derive(Debug, Clone)]
pub struct Refusal(pub String);

impl HostTpm {
    /// Powers on a copy of `tpm`; the original stays as it is.
    #[must_use]
    pub fn power_on_copy(tpm: &SoftTpm) -> Self {
        let dir = tempfile::Builder::new().prefix("tpm-").tempdir().expect("a directory");
        let copy = tpm.copy_to(&dir.path().join("state")).expect("a copy of the TPM");
        let served = copy.serve(dir.path()).expect("a TPM");
        Self { served, dir }
    }

    /// Powers on `tpm` itself: what is done to it stays. It goes off when dropped.
    #[must_use]
    pub fn power_on(tpm: &SoftTpm) -> Self {
        let dir = tempfile::Builder::new().prefix("tpm-").tempdir().expect("a directory");
        let served = tpm.serve(dir.path()).expect("a TPM");
        Self { served, dir }
    }

    /// The Name of the key at a handle, in hex.
    #[must_use]
    pub fn name(&self, handle: &str) -> String {
        self.must(&format!("tpm2_readpublic -Q -c {handle} -n key.name"));
        let name = std::fs::read(self.file("key.name")).expect("the Name");
        name.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Runs one tool.
    ///
    /// # Errors
    /// Its standard error when it fails.
    pub fn tool(&self, line: &str) -> Result<Vec<u8>, Refusal> {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program");
        let output = Command::new(program)
            .args(words)
            .current_dir(self.dir.path())
            .env("TPM2TOOLS_TCTI", self.served.tcti())
            .output()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(Refusal(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }

    /// A tool that has to succeed for the test to mean anything.
    pub fn must(&self, line: &str) -> Vec<u8> {
        self.tool(line).unwrap_or_else(|Refusal(why)| panic!("{line}: {why}"))
    }

    /// A file in the tools' working directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Extends a PCR.
    pub fn extend(&self, pcr: u8, digest: &Sha256Digest) {
        self.must(&format!("tpm2_pcrextend {pcr}:sha256={digest}"));
    }

    /// Measures all that a manifest says, as U-Boot would.
    pub fn measure(&self, manifest: &Manifest) {
        for event in manifest.events() {
            self.extend(event.pcr.get(), &event.digest);
        }
    }

    /// Reads the index `index` under a policy session bound to the PCRs `pcrs`.
    ///
    /// # Errors
    /// What the TPM said to the read; the steps before it have to succeed.
    pub fn unseal(&self, index: &str, pcrs: &str) -> Result<Vec<u8>, Refusal> {
        self.must("tpm2_startauthsession --policy-session -S session");
        self.must(&format!("tpm2_policypcr -Q -S session -l sha256:{pcrs}"));
        let read = self.tool(&format!("tpm2_nvread -C {index} -P session:session {index}"));
        let _ = self.tool("tpm2_flushcontext session");
        read
    }
}

/// A manifest's PCRs as tpm2-tools want them.
#[must_use]
pub fn selection(manifest: &Manifest) -> String {
    let pcrs: Vec<String> = manifest.seal().iter().map(|pcr| pcr.get().to_string()).collect();
    pcrs.join(",")
}
