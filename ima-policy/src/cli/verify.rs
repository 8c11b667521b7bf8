//! `verify`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use ima_policy::judge::{Fault, Judge};
use ima_policy::list::Record;
use ima_policy::list::replay::{Filling, Replay};
use ima_policy::reference::{MAX_JSON, Reference};
use ima_policy::signature::Keyring;
use pcr_measure::PcrIndex;
use pcr_measure::command::{Answer, Format, Partly, json, read};
use pcr_measure::digest::{Algorithm, Digest};
use pcr_measure::key::MAX_KEY_FILE;
use pcr_measure::text::printable;
use serde::Serialize;

use super::list::{ListArgs, algorithm, records};

/// Faulty entries that are told one by one, unless another number is asked for.
const SHOWN: usize = 100;

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// The list, for instance /sys/kernel/security/ima/binary_runtime_measurements
    list: PathBuf,
    #[command(flatten)]
    written: ListArgs,
    /// What is known to be good (ima-policy reference); may be given several times
    #[arg(long, value_name = "FILE")]
    reference: Vec<PathBuf>,
    /// Who may sign files: certificates or public keys, PEM or DER; may be given several times
    #[arg(long, value_name = "FILE")]
    keyring: Vec<PathBuf>,
    /// The value of the PCR that the list leads to, from a quote that was verified; SHA-256
    /// unless the hash stands before it
    #[arg(long, value_name = "[HASH:]HEX", value_parser = digest)]
    pcr10: Option<Digest>,
    /// The PCR that the list extends
    #[arg(long, value_name = "PCR", value_parser = pcr, default_value = "10")]
    pcr: PcrIndex,
    /// The digest over PCR 0-9 that the first entry has to have
    #[arg(long, value_name = "[HASH:]HEX", value_parser = digest)]
    boot_aggregate: Option<Digest>,
    /// Tell at most this many faulty entries one by one; all are counted
    #[arg(long, value_name = "NUMBER", default_value_t = SHOWN)]
    show: usize,
}

fn pcr(text: &str) -> Result<PcrIndex, String> {
    let number = text.parse().map_err(|_| "no number".to_owned())?;
    PcrIndex::new(number).map_err(|error| error.to_string())
}

/// `sha256:00ff...`, or without the hash's name.
fn digest(text: &str) -> Result<Digest, String> {
    let (hash, hex) = match text.split_once(':') {
        Some((name, hex)) => (algorithm(name)?, hex),
        None => (Algorithm::Sha256, text),
    };
    Digest::from_hex(hash, hex.trim_start_matches("0x")).map_err(|error| error.to_string())
}

#[derive(Serialize)]
struct VerifyJson {
    good: bool,
    entries: u64,
    violations: u64,
    pcr: PcrJson,
    faults: BTreeMap<Fault, u64>,
    entries_with_faults: Vec<FaultJson>,
}

#[derive(Serialize)]
struct PcrJson {
    number: PcrIndex,
    hash: String,
    replayed: String,
    expected: Option<String>,
    /// Entries after which the value is the expected one.
    vouched_for: Option<u64>,
}

#[derive(Serialize)]
struct FaultJson {
    entry: u64,
    name: String,
    fault: Fault,
    digest: Option<String>,
}

/// What is known of a list so far. It does not grow with the list.
struct Reading<'a> {
    judge: Judge<'a>,
    expected: Option<&'a Digest>,
    pcr: PcrIndex,
    /// As Linux fills a bank since 5.8; and as it did before, where it is about a PCR, since
    /// the list does not say which.
    replays: Vec<Replay>,
    entries: u64,
    vouched_for: Option<u64>,
    faults: BTreeMap<Fault, u64>,
    shown: Vec<FaultJson>,
    most: usize,
}

impl Reading<'_> {
    fn add(&mut self, record: &Record) -> Result<()> {
        self.entries += 1;
        for replay in &mut self.replays {
            replay.add(record)?;
            if record.pcr == self.pcr && Some(&replay.value(self.pcr)) == self.expected {
                self.vouched_for = Some(replay.entries());
            }
        }
        let Some(fault) = self.judge.judge(self.entries, record)? else { return Ok(()) };
        *self.faults.entry(fault).or_default() += 1;
        if self.shown.len() < self.most {
            let digest = record.file_digest();
            self.shown.push(FaultJson {
                entry: self.entries,
                name: printable(&String::from_utf8_lossy(record.name().unwrap_or_default())),
                fault,
                digest: digest.map(|its| format!("{}:{}", its.algorithm, hex::encode(its.bytes))),
            });
        }
        Ok(())
    }

    fn is_good(&self) -> bool {
        self.faults.is_empty() && (self.expected.is_none() || self.vouched_for.is_some())
    }

    fn json(self) -> VerifyJson {
        let good = self.is_good();
        let replay = self.replays.first();
        let value = replay.map(|replay| replay.value(self.pcr));
        VerifyJson {
            good,
            entries: self.entries,
            violations: replay.map_or(0, Replay::violations),
            pcr: PcrJson {
                number: self.pcr,
                hash: value.as_ref().map(|value| value.algorithm().to_string()).unwrap_or_default(),
                replayed: value.as_ref().map(ToString::to_string).unwrap_or_default(),
                expected: self.expected.map(ToString::to_string),
                vouched_for: self.vouched_for,
            },
            faults: self.faults,
            entries_with_faults: self.shown,
        }
    }
}

/// Reads the list once, and tells what of it is not as it should be.
pub(super) fn run(args: &VerifyArgs, format: Format) -> Result<Answer> {
    let mut reference = None;
    for path in &args.reference {
        let read = Reference::from_json(&read(path, MAX_JSON)?);
        let next = read.with_context(|| path.display().to_string())?;
        match &mut reference {
            None => reference = Some(next),
            Some(reference) => reference.merge(next)?,
        }
    }
    let mut keyring = (!args.keyring.is_empty()).then(Keyring::new);
    for path in &args.keyring {
        let keys = read(path, MAX_KEY_FILE)?;
        if let Some(keyring) = &mut keyring {
            keyring.add(&path.display().to_string(), &keys)?;
        }
    }
    let hash = args.pcr10.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
    let fillings: &[Filling] = match args.pcr10 {
        Some(_) => &[Filling::Hashed, Filling::Padded],
        None => &[Filling::Hashed],
    };
    let mut reading = Reading {
        judge: Judge {
            reference: reference.as_ref(),
            keyring: keyring.as_ref(),
            boot_aggregate: args.boot_aggregate.as_ref(),
        },
        expected: args.pcr10.as_ref(),
        pcr: args.pcr,
        replays: fillings.iter().map(|filling| Replay::new(hash, *filling)).collect(),
        entries: 0,
        vouched_for: None,
        faults: BTreeMap::new(),
        shown: Vec::new(),
        most: args.show,
    };
    let mut ended = Ok(());
    for record in records(&args.list, args.written.list_hash)? {
        ended = record.map_err(Into::into).and_then(|record| reading.add(&record));
        if ended.is_err() {
            break;
        }
    }
    let yes = reading.is_good();
    let told = reading.json();
    let text = if format == Format::Json { json(&told)? } else { text(&told) };
    let answer = Answer { text, notes: Vec::new(), yes };
    match ended {
        Ok(()) => Ok(answer),
        Err(error) => {
            let why = format!("{}: {error}; what stands behind was not read", args.list.display());
            Err(Partly { answer, why }.into())
        }
    }
}

fn text(told: &VerifyJson) -> String {
    let mut text = String::new();
    for FaultJson { entry, name, fault, digest } in &told.entries_with_faults {
        let digest = digest.as_deref().unwrap_or("no digest");
        text.push_str(&format!("entry {entry}: {name}: {}\n    {digest}\n", fault.told()));
    }
    let all: u64 = told.faults.values().sum();
    let shown = told.entries_with_faults.len() as u64;
    if all > shown {
        text.push_str(&format!("and {} other entries\n", all - shown));
    }
    let PcrJson { number, hash, replayed, expected, vouched_for } = &told.pcr;
    text.push_str(&format!("{} entries, {all} with a fault\n", told.entries));
    text.push_str(&format!("PCR {number} ({hash}): {replayed}\n"));
    match (expected, vouched_for) {
        (None, _) => {
            text.push_str("not compared with a PCR: whoever had the list could change it\n")
        }
        (Some(expected), None) => {
            text.push_str(&format!("    expected {expected}: this is not the list of that PCR\n"));
        }
        (Some(_), Some(entries)) if *entries < told.entries => {
            let behind = told.entries - entries;
            text.push_str(&format!(
                "    as expected after entry {entries}; for the {behind} behind it that PCR does not vouch\n"
            ));
        }
        (Some(_), Some(_)) => text.push_str("    as expected\n"),
    }
    text
}
