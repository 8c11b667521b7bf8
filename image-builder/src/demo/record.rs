//! What a journey shows, as values.

use std::path::PathBuf;

use emulated_board::{
    Line,
    stages::{Stage, stages},
    wire::{Capture, Exchange, command},
};
use ima_policy::judge::Judge;
use ima_policy::list::replay::{Filling, Replay};
use ima_policy::list::{ListError, Record};
use ima_policy::reference::Reference;
use pcr_measure::text::printable;
use pcr_measure::{Algorithm, PcrBank, PcrIndex, Sha256Digest, manifest::Manifest};
use serde::Serialize;

use super::watched::Watching;
use crate::emu::{boot::Boot, shell::Status};

/// The PCRs that firmware and boot loader measure into: 0 to 9.
const PREDICTED: u32 = 10;

/// IMA's PCR (Linux, `CONFIG_IMA_MEASURE_PCR_IDX`).
const IMA: u32 = 10;

/// The kernel's last line before initramfs-unseal. Its own lines are read too late
/// on a busy machine to tell which command came first.
const INITRAMFS_FROM: &str = "Run /init as init process";
/// initramfs-unseal's last line.
const INITRAMFS_TO: &str = "initramfs-unseal: switching root to ";

/// All of a journey.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(tag = "schema", rename = "msec-boot/journey/1")]
pub struct Journey {
    /// The image.
    pub image: Option<Sizes>,
    /// The boots, in order.
    pub boots: Vec<BootRecord>,
    /// The device that watches itself.
    pub watched: Option<Watching>,
}

/// Sizes in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Sizes {
    /// The image.
    pub path: PathBuf,
    /// `initramfs-unseal`, the static binary, if it is known.
    pub unseal: Option<u64>,
    /// The initramfs as stored.
    pub initramfs: u64,
    /// The FIT.
    pub fit: u64,
}

/// One boot.
#[derive(Debug, Clone, Serialize)]
pub struct BootRecord {
    /// Its name, which is its log directory's too.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// What took how long.
    pub stages: Vec<Stage>,
    /// PCRs 0 to 9, predicted and measured.
    pub pcrs: Vec<PcrRow>,
    /// What unlocked the root: `tpm`, `recovery` or `provisioned`.
    pub unlocked_by: String,
    /// Where the root came from.
    pub root: String,
    /// Why the TPM did not release the key.
    pub refusal: Option<String>,
    /// What the console named as different.
    pub differences: Vec<String>,
    /// The unlock's commands on the TPM's wire.
    pub tpm: TpmCommands,
    /// What became of the secret once the userland ran.
    pub secret: Secret,
    /// What ran there.
    pub ran: Ran,
    /// Where the logs are.
    pub logs: PathBuf,
    /// Every byte between board and TPM.
    #[serde(skip)]
    pub wire: Capture,
}

/// What ran, by IMA's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ran {
    /// Entries of the list.
    pub entries: usize,
    /// Whether it leads to what the TPM has in PCR 10.
    pub leads_to_pcr: bool,
    /// What the image's reference does not foretell: name, and what is wrong.
    pub told: Vec<String>,
}

impl Ran {
    /// Judges a list by the image's reference, if there is one. The PCR may have been read earlier than the list,
    /// and not later.
    ///
    /// # Errors
    /// That this build has no such hash.
    pub fn of(
        records: &[Record],
        reference: Option<&Reference>,
        pcrs: &PcrBank,
    ) -> Result<Self, ListError> {
        let judge = Judge { reference, ..Judge::default() };
        let pcr = PcrIndex::new(IMA).ok();
        let measured = pcr.and_then(|pcr| pcrs.sha256(pcr));
        let mut replay = Replay::new(Algorithm::Sha256, Filling::Hashed);
        let mut ran = Self { entries: records.len(), leads_to_pcr: false, told: Vec::new() };
        for (entry, record) in (1..).zip(records) {
            replay.add(record)?;
            let value = pcr.and_then(|pcr| replay.value(pcr).as_sha256());
            ran.leads_to_pcr |= value.is_some() && value == measured;
            if let Some(fault) = judge.judge(entry, record)? {
                let name = String::from_utf8_lossy(record.name().unwrap_or_default());
                ran.told.push(format!("{}: {}", printable(&name), fault.told()));
            }
        }
        Ok(ran)
    }
}

/// One PCR of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PcrRow {
    /// The PCR.
    pub pcr: u8,
    /// What the booted image's manifest says.
    pub predicted: Option<Sha256Digest>,
    /// What the TPM says.
    pub measured: Option<Sha256Digest>,
    /// False when the key was sealed to another value of this PCR; `None` when it
    /// was not sealed to this PCR.
    pub as_sealed: Option<bool>,
}

impl PcrRow {
    /// Predicted and measured are there and the same.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.predicted.is_some() && self.predicted == self.measured
    }
}

/// TPM commands.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TpmCommands {
    /// Those of the unlock by name, in order, as they passed on the wire.
    pub unlock: Vec<String>,
    /// How many initramfs-unseal says it sent; provisioning's are among them.
    pub reported: u32,
    /// All of the boot: U-Boot's and the kernel's too.
    pub boot: usize,
}

/// Whether the secret could be unsealed in the running userland.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Secret {
    /// `initramfs-unseal status`: `unreachable` is what it must be.
    pub status: String,
    /// What Debian's tpm2-tools got: the error of a PCR policy session and
    /// `tpm2_nvread`. `None` where that was not tried.
    pub tpm2_tools: Option<String>,
}

/// PCRs 0 to 9 side by side. `booted` is the manifest of the image that was booted,
/// `sealed` that of the one the key was sealed to.
#[must_use]
pub fn pcr_rows(booted: &Manifest, sealed: &Manifest, measured: &PcrBank) -> Vec<PcrRow> {
    let (predicted, values) = (booted.predict(), sealed.sealed_values());
    (0..PREDICTED)
        .filter_map(|index| PcrIndex::new(index).ok())
        .map(|pcr| {
            let measured = measured.sha256(pcr);
            let sealed_to = sealed.seal().iter().any(|p| p == pcr);
            PcrRow {
                pcr: pcr.get(),
                predicted: predicted.sha256(pcr),
                measured,
                as_sealed: sealed_to.then(|| values.sha256(pcr) == measured),
            }
        })
        .collect()
}

impl BootRecord {
    /// Takes down a boot that has gone off.
    #[must_use]
    pub fn of(
        name: &str,
        title: &str,
        boot: &Boot,
        status: Status,
        ran: Ran,
        (booted, sealed): (&Manifest, &Manifest),
    ) -> Self {
        let lines = boot.lines();
        let unlock = unlock(boot.commands_between(INITRAMFS_FROM, INITRAMFS_TO));
        Self {
            name: name.to_owned(),
            title: title.to_owned(),
            stages: stages(&lines),
            pcrs: pcr_rows(booted, sealed, &status.pcrs),
            unlocked_by: status.report.method,
            root: format!("{} ({})", status.root.source, status.root.fstype),
            refusal: status.report.refusal,
            differences: differences(&lines),
            tpm: TpmCommands {
                unlock: unlock.iter().map(Exchange::name).collect(),
                reported: status.report.tpm_commands,
                boot: boot.board.wire.exchanges().len(),
            },
            secret: Secret { status: status.sealed, tpm2_tools: None },
            ran,
            logs: boot.board.logs().to_owned(),
            wire: boot.board.wire.clone(),
        }
    }
}

/// Of the initramfs' TPM commands those of the unlock: after provisioning, which ends
/// with a write lock, and before the platform hierarchy is closed.
fn unlock(mut commands: Vec<Exchange>) -> Vec<Exchange> {
    let is = |code| move |exchange: &Exchange| exchange.code() == Some(code);
    if let Some(end) = commands.iter().position(is(command::HIERARCHY_CONTROL)) {
        commands.truncate(end);
    }
    match commands.iter().rposition(is(command::NV_WRITE_LOCK)) {
        Some(last) => commands.split_off(last.saturating_add(1)),
        None => commands,
    }
}

/// The console's lines about components that differ, without their prefix.
fn differences(lines: &[Line]) -> Vec<String> {
    let prefix = "initramfs-unseal: differs: ";
    lines.iter().filter_map(|l| l.text.strip_prefix(prefix)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_form_names_its_schema() {
        let json = serde_json::to_value(Journey::default()).unwrap();
        assert_eq!(json["schema"], "msec-boot/journey/1");
        assert_eq!(json["boots"], serde_json::json!([]));
    }

    #[test]
    fn only_a_pcr_with_both_values_agrees() {
        let value = Some(Sha256Digest::of(b"x"));
        let row = |predicted, measured| PcrRow { pcr: 0, predicted, measured, as_sealed: None };
        assert!(row(value, value).agrees());
        assert!(!row(value, Some(Sha256Digest::of(b"y"))).agrees());
        assert!(!row(value, None).agrees());
        assert!(!row(None, None).agrees());
    }

    #[test]
    fn provisioning_and_what_follows_are_no_part_of_the_unlock() {
        let exchange = |code: u32| Exchange {
            at: std::time::Duration::ZERO,
            took: std::time::Duration::ZERO,
            request: [&[0x80, 1, 0, 0, 0, 10], code.to_be_bytes().as_slice()].concat(),
            response: Vec::new(),
        };
        let of = |codes: &[u32]| unlock(codes.iter().map(|code| exchange(*code)).collect());
        let read = [exchange(command::NV_READ)];
        let (lock, close) = (command::NV_WRITE_LOCK, command::HIERARCHY_CONTROL);
        assert_eq!(of(&[command::NV_READ]), read);
        assert_eq!(of(&[command::NV_READ, close, command::GET_RANDOM]), read);
        assert_eq!(of(&[command::GET_RANDOM, lock, command::NV_READ, close]), read);
        assert_eq!(of(&[]), []);
    }

    #[test]
    fn differences_are_taken_from_the_console() {
        let line = |text: &str| Line { at: std::time::Duration::ZERO, text: text.to_owned() };
        let lines = [
            line("initramfs-unseal: differs: PCR 1, command line: expected 00…, measured 11…"),
            line("differs: PCR 8, kernel: a program prints this"),
        ];
        assert_eq!(differences(&lines), ["PCR 1, command line: expected 00…, measured 11…"]);
    }
}
