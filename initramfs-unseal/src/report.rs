//! The report that outlives the initramfs: what happened when, what unlocked
//! the root, what differed. It holds no secret.

pub mod this_boot;

use crate::status::Objects;
use crate::sys;
use crate::tpm::platform::Platform;
use pcr_measure::explain::Difference;
use pcr_measure::pcr::PcrBank;
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;

/// Where the report lies in the running system.
pub const PATH: &str = "/run/initramfs-unseal/report.json";

/// What unlocked the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The TPM, on a root provisioned in an earlier boot.
    Tpm,
    /// The recovery key, typed by hand.
    Recovery,
    /// The TPM, on a root that this boot provisioned.
    Provisioned,
}

/// One point in time.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Stage {
    /// What was reached.
    pub stage: &'static str,
    /// Milliseconds since the kernel started.
    pub ms: u64,
}

/// The report.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    schema: &'static str,
    version: &'static str,
    /// What unlocked the root, once it is.
    pub method: Option<Method>,
    /// What was reached when, in order.
    pub timeline: Vec<Stage>,
    /// PCRs as read before the latch, when the TPM did not release the key. When
    /// it did, they are those of the policy, and reading them would cost a command.
    pub pcrs: Option<PcrBank>,
    /// What differed from the boot that was sealed against.
    pub differences: Vec<Difference>,
    /// Why the TPM did not release the key.
    pub refusal: Option<String>,
    /// The TPM objects that were sealed to.
    pub sealed: Option<Objects>,
    /// TPM commands of the unlock.
    pub tpm_commands: u32,
    /// The platform hierarchy since the unlock: `disabled`, `password`, or `open: `
    /// and why. None without a TPM.
    pub platform: Option<Platform>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            schema: "msec-boot/unlock-report/1",
            version: env!("CARGO_PKG_VERSION"),
            method: None,
            timeline: Vec::new(),
            pcrs: None,
            differences: Vec::new(),
            refusal: None,
            sealed: None,
            tpm_commands: 0,
            platform: None,
        }
    }
}

impl Report {
    /// Notes that `stage` is reached now.
    pub fn reached(&mut self, stage: &'static str) {
        let ms = u64::try_from(sys::since_boot().as_millis()).unwrap_or(u64::MAX);
        self.timeline.push(Stage { stage, ms });
    }

    /// Writes the report to [`PATH`], readable by all: there is no secret in it.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write(&self) -> io::Result<()> {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        let path = Path::new(PATH);
        if let Some(dir) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        }
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.write_all(b"\n")
    }
}
