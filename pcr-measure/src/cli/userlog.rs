//! `log show` and `log replay` of what userspace measured.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use pcr_measure::text::listed;
use pcr_measure::userlog::{Content, Entry, UserLog, is_marked};
use pcr_measure::{Algorithm, PcrIndex};
use serde::Serialize;
use serde_json::Value;

use super::log::{EndJson, ReplayJson, shown_bank};
use super::{Answer, Format, bank_text, json};
use pcr_measure::command::table;

/// As `LogJson` of firmware's logs, so that one program reads both.
#[derive(Serialize)]
struct UserLogJson {
    format: &'static str,
    version: Value,
    vendor: Value,
    banks: Vec<String>,
    startup_locality: Value,
    events: Vec<UserEventJson>,
    end: EndJson,
}

#[derive(Serialize)]
struct UserEventJson {
    number: usize,
    offset: usize,
    pcr: PcrIndex,
    #[serde(rename = "type")]
    event_type: String,
    type_id: Value,
    extended: bool,
    digests: BTreeMap<String, String>,
    data: Value,
    description: String,
    boot_id: Option<String>,
    timestamp: Option<u64>,
}

/// What to say of a log that is not whole.
fn notes(path: &Path, log: &UserLog) -> Vec<String> {
    let mut notes = Vec::new();
    let (records, shown) = (log.entries.len(), path.display());
    if let Some((offset, reason)) = &log.broken {
        notes.push(format!("{shown}: broken at byte {offset}, after {records} records: {reason}"));
    }
    if path.metadata().is_ok_and(|metadata| is_marked(&metadata)) {
        notes.push(format!(
            "{shown}: a measurement is not in it (its sticky bit is set: a writer was cut off, or \
             writes now)"
        ));
    }
    notes
}

fn end(log: &UserLog) -> EndJson {
    match &log.broken {
        None => EndJson { state: "complete", offset: None, reason: None },
        Some((offset, reason)) => {
            EndJson { state: "broken", offset: Some(*offset), reason: Some(reason.to_string()) }
        }
    }
}

/// Refuses bytes whose very first record is broken.
fn parse(path: &Path, bytes: &[u8]) -> Result<UserLog> {
    let log = UserLog::parse(bytes);
    match &log.broken {
        Some((_, reason)) if log.entries.is_empty() => {
            bail!("{} is no log of userspace's measurements: {reason}", path.display())
        }
        _ => Ok(log),
    }
}

/// Every record.
pub(super) fn show(
    path: &Path,
    bytes: &[u8],
    bank: Option<Algorithm>,
    format: Format,
) -> Result<Answer> {
    let log = parse(path, bytes)?;
    let shown = shown_bank(&log.banks(), bank, Algorithm::Sha256)?;
    let text = match format {
        Format::Json => json(&log_json(&log))?,
        Format::Text => log_text(&log, shown),
    };
    let notes = notes(path, &log);
    let yes = notes.is_empty();
    Ok(Answer { text, notes, yes })
}

fn log_text(log: &UserLog, bank: Algorithm) -> String {
    let row = |(number, Entry { record, .. }): (usize, &Entry)| {
        let digest = record.digest(bank).map(|digest| {
            let head = digest.as_bytes().get(..8).unwrap_or_default();
            format!("{}…", hex::encode(head))
        });
        [
            number.to_string(),
            record.pcr.to_string(),
            record.event_type(),
            digest.unwrap_or("-".to_owned()),
            record.description(),
        ]
    };
    let rows: Vec<_> = log.entries.iter().enumerate().map(row).collect();
    let head = ["#", "PCR", "type", bank.name(), "what the log says it is"];
    format!(
        "Log of userspace's measurements, banks {}; {} records\n{}",
        listed(&log.banks()),
        rows.len(),
        table(head, &[0, 1], &rows)
    )
}

fn log_json(log: &UserLog) -> UserLogJson {
    let event = |(number, Entry { offset, record }): (usize, &Entry)| {
        let systemd = match &record.content {
            Content::Systemd(systemd) => Some(systemd),
            _ => None,
        };
        let digest = |d: &pcr_measure::Digest| (d.algorithm().to_string(), d.to_string());
        UserEventJson {
            number,
            offset: *offset,
            pcr: record.pcr,
            event_type: record.event_type(),
            type_id: Value::Null,
            extended: true,
            digests: record.digests.iter().map(digest).collect(),
            data: Value::Null,
            description: record.description(),
            boot_id: systemd.map(|s| s.boot_id.clone()),
            timestamp: systemd.map(|s| s.timestamp),
        }
    };
    UserLogJson {
        format: "userspace",
        version: Value::Null,
        vendor: Value::Null,
        banks: log.banks().iter().map(ToString::to_string).collect(),
        startup_locality: Value::Null,
        events: log.entries.iter().enumerate().map(event).collect(),
        end: end(log),
    }
}

/// The values that the records lead to.
pub(super) fn replay(
    path: &Path,
    bytes: &[u8],
    bank: Option<Algorithm>,
    format: Format,
) -> Result<Answer> {
    let log = parse(path, bytes)?;
    let mut notes = notes(path, &log);
    let yes = notes.is_empty();
    let wanted = bank.map_or_else(|| log.banks(), |bank| vec![bank]);
    if wanted.is_empty() && !log.entries.is_empty() {
        notes.push(format!("{}: no record has a digest of a bank known here", path.display()));
    }
    let (mut banks, mut skipped) = (BTreeMap::new(), BTreeMap::new());
    let mut text = String::new();
    for bank in wanted {
        let values = log.replay(bank)?;
        let without = log.without_digest(bank);
        if without > 0 {
            let why = format!("{without} records have no digest of this bank");
            notes.push(format!("bank {bank}: {why}"));
            skipped.insert(bank.to_string(), why);
        }
        text.push_str(&bank_text(&values));
        banks.insert(bank.to_string(), values);
    }
    if format == Format::Json {
        text = json(&ReplayJson { banks, skipped, end: end(&log) })?;
    }
    Ok(Answer { text, notes, yes })
}
