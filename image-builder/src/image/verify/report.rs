//! The verdict on an image, for people and for programs.

use std::path::PathBuf;

use pcr_measure::PcrBank;
use serde::Serialize;

/// The outcome of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// Could not be checked here.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub what: String,
    /// What came of it.
    pub outcome: Outcome,
    /// In words.
    pub detail: String,
}

/// What stands in the root partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootState {
    /// A plain ext4: as built, to be encrypted at first boot.
    Plain,
    /// A LUKS container: provisioned.
    Encrypted,
    /// Neither; perhaps encryption was interrupted.
    Unknown,
}

/// The verdict on an image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `msec-boot/image-report/1`.
    pub schema: &'static str,
    /// The image's file.
    pub path: PathBuf,
    /// True if no check was bad.
    pub good: bool,
    /// Name in the manifest.
    pub image: Option<String>,
    /// Board in the manifest.
    pub board: Option<String>,
    /// The root partition.
    pub root: RootState,
    /// The command line in the FIT.
    pub command_line: Option<String>,
    /// Every check, in order.
    pub checks: Vec<Check>,
    /// What the card, as it is, will bring into the PCRs.
    pub pcrs: Option<PcrBank>,
    /// What the manifest says, where that differs.
    pub pcrs_in_manifest: Option<PcrBank>,
}

impl Report {
    /// Adds a check that was made elsewhere.
    pub fn add(&mut self, check: Check) {
        self.good &= check.outcome != Outcome::Bad;
        self.checks.push(check);
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n", self.path.display());
        let root = match self.root {
            RootState::Plain => "plain ext4, to be encrypted at first boot",
            RootState::Encrypted => "encrypted (LUKS)",
            RootState::Unknown => "neither ext4 nor LUKS",
        };
        text += &format!("  root            {root}\n");
        if let Some(line) = &self.command_line {
            let line = line.escape_debug();
            text += &format!("  command line    {line}\n");
        }
        for check in &self.checks {
            let outcome = match check.outcome {
                Outcome::Good => "good",
                Outcome::Bad => "BAD",
                Outcome::Skipped => "skipped",
            };
            text += &format!("  {:<15} {outcome:<8} {}\n", check.what, check.detail);
        }
        if let Some(pcrs) = &self.pcrs {
            text += "  what it will measure (SHA-256):\n";
            for (pcr, value) in pcrs.iter() {
                let said = self.pcrs_in_manifest.as_ref().and_then(|p| p.sha256(pcr));
                let differs = match said {
                    Some(said) if said.to_string() != value.to_string() => {
                        format!("  the manifest says {}…", said.short())
                    }
                    _ => String::new(),
                };
                text += &format!("    PCR {:<2} {value}{differs}\n", pcr.get());
            }
        }
        text += match (self.good, self.pcrs_in_manifest.is_none()) {
            (true, _) => "  The image is good.\n",
            (false, true) => "  The image is NOT good: see above.\n",
            (false, false) => {
                "  The image is NOT good: the manifest is another image's, or the image was changed \
                 after it was written.\n"
            }
        };
        text
    }
}
