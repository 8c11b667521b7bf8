//! `log show` and `log replay`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use anyhow::{Result, bail};
use pcr_measure::eventlog::{AlgorithmId, Event, EventLog, Format as LogFormat, LogEnd};
use pcr_measure::text::listed;
use pcr_measure::userlog::UserLog;
use pcr_measure::{Algorithm, PcrBank};
use serde::{Serialize, Serializer};

use super::{Answer, Format, bank_text, input, json, userlog};
use pcr_measure::command::table;

#[derive(Serialize)]
struct LogJson<'a> {
    format: &'static str,
    version: Option<String>,
    vendor: Option<String>,
    banks: Vec<AlgorithmId>,
    startup_locality: Option<u8>,
    events: EventsJson<'a>,
    end: EndJson,
}

/// Made one by one while they are written: a log of 16 MiB can have a million.
struct EventsJson<'a>(&'a [Event<'a>]);

impl Serialize for EventsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().enumerate().map(EventJson::new))
    }
}

#[derive(Serialize)]
struct EventJson {
    number: usize,
    offset: usize,
    pcr: u32,
    #[serde(rename = "type")]
    event_type: String,
    type_id: u32,
    extended: bool,
    digests: BTreeMap<String, String>,
    data: String,
    description: String,
}

impl EventJson {
    fn new((number, event): (usize, &Event<'_>)) -> Self {
        Self {
            number,
            offset: event.offset,
            pcr: event.pcr,
            event_type: event.event_type.to_string(),
            type_id: event.event_type.0,
            extended: event.is_extended(),
            digests: event
                .digests
                .iter()
                .map(|d| (d.algorithm.to_string(), hex::encode(d.bytes)))
                .collect(),
            data: hex::encode(event.data),
            description: event.description(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct ReplayJson {
    pub(super) banks: BTreeMap<String, PcrBank>,
    pub(super) skipped: BTreeMap<String, String>,
    pub(super) end: EndJson,
}

#[derive(Serialize)]
pub(super) struct EndJson {
    pub(super) state: &'static str,
    pub(super) offset: Option<usize>,
    pub(super) reason: Option<String>,
}

impl From<LogEnd> for EndJson {
    fn from(end: LogEnd) -> Self {
        match end {
            LogEnd::Complete => Self { state: "complete", offset: None, reason: None },
            LogEnd::Padding { offset } => {
                Self { state: "padding", offset: Some(offset), reason: None }
            }
            LogEnd::Broken { offset, reason } => {
                Self { state: "broken", offset: Some(offset), reason: Some(reason.to_string()) }
            }
        }
    }
}

/// Refuses bytes whose very first event is broken; others are a log, whole or not.
pub(super) fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<EventLog<'a>> {
    let log = EventLog::parse(bytes);
    if log.events.is_empty() {
        let why = match log.end {
            LogEnd::Broken { reason, .. } => reason.to_string(),
            _ => "it holds nothing but fill bytes".to_owned(),
        };
        if UserLog::is(bytes) {
            bail!(
                "{} is the log of what userspace measured: that of the firmware is needed",
                path.display()
            );
        }
        bail!("{} is no TCG event log: {why}", path.display());
    }
    Ok(log)
}

/// What to say about a log that ends in a broken event.
pub(super) fn broken(path: &Path, log: &EventLog<'_>) -> Option<String> {
    let LogEnd::Broken { offset, reason } = log.end else {
        return None;
    };
    let (events, path) = (log.events.len(), path.display());
    Some(format!("{path}: broken at byte {offset}, after {events} events: {reason}"))
}

/// What to say about a bank that events have no digest of.
pub(super) fn without_digest(log: &EventLog<'_>, bank: Algorithm) -> Option<String> {
    lacking(log, bank).map(|why| format!("bank {bank}: {why}"))
}

fn lacking(log: &EventLog<'_>, bank: Algorithm) -> Option<String> {
    match log.without_digest(bank) {
        0 => None,
        1 => Some("1 event has no digest of this bank".to_owned()),
        more => Some(format!("{more} events have no digest of this bank")),
    }
}

/// Every event of a log.
pub(super) fn show(path: &Path, bank: Option<Algorithm>, format: Format) -> Result<Answer> {
    let bytes = input::log(path)?;
    if UserLog::is(&bytes) {
        return userlog::show(path, &bytes, bank, format);
    }
    let log = parse(path, &bytes)?;
    let id = |bank: Algorithm| AlgorithmId(bank.id());
    let shown = shown_bank(&log.banks(), bank.map(id), id(Algorithm::Sha256))?;
    let text = match format {
        Format::Json => json(&log_json(&log))?,
        Format::Text => log_text(&log, shown),
    };
    let notes: Vec<_> = broken(path, &log).into_iter().collect();
    let yes = notes.is_empty();
    Ok(Answer { text, notes, yes })
}

/// The bank that is shown of those that a log has: the one that was asked for, else
/// `usual`, else the first.
pub(super) fn shown_bank<B: Copy + PartialEq + Display>(
    banks: &[B],
    asked: Option<B>,
    usual: B,
) -> Result<B> {
    let wanted = asked.unwrap_or(usual);
    match banks.first() {
        _ if banks.contains(&wanted) => Ok(wanted),
        _ if asked.is_some() => bail!("the log has no {wanted} bank; it has {}", listed(banks)),
        first => Ok(first.copied().unwrap_or(usual)),
    }
}

fn log_text(log: &EventLog<'_>, bank: AlgorithmId) -> String {
    let form = match &log.format {
        LogFormat::Sha1 => "TCG event log of SHA-1 form".to_owned(),
        LogFormat::CryptoAgile(spec) => {
            let (major, minor, errata) = spec.version;
            let banks = listed(&log.banks());
            format!("TCG event log, crypto-agile {major}.{minor} errata {errata}, banks {banks}")
        }
    };
    let rows: Vec<_> =
        log.events.iter().enumerate().map(|(n, event)| row(n, event, bank)).collect();
    let bank = bank.to_string();
    let head = ["#", "PCR", "type", bank.as_str(), "size", "what the log says it is"];
    format!("{form}; {} events\n{}", log.events.len(), table(head, &[0, 1, 4], &rows))
}

fn row(number: usize, event: &Event<'_>, bank: AlgorithmId) -> [String; 6] {
    let digest = event.digests.iter().find(|d| d.algorithm == bank && event.is_extended());
    [
        number.to_string(),
        event.extended_pcr().map_or("-".to_owned(), |pcr| pcr.to_string()),
        event.event_type.to_string(),
        digest.map_or("-".to_owned(), |d| {
            let head = d.bytes.get(..8).unwrap_or(d.bytes);
            format!("{}…", hex::encode(head))
        }),
        event.data.len().to_string(),
        event.description(),
    ]
}

fn log_json<'a>(log: &'a EventLog<'_>) -> LogJson<'a> {
    let spec = match &log.format {
        LogFormat::Sha1 => None,
        LogFormat::CryptoAgile(spec) => Some(spec),
    };
    LogJson {
        format: if spec.is_some() { "crypto-agile" } else { "sha1" },
        version: spec.map(|s| format!("{}.{}.{}", s.version.0, s.version.1, s.version.2)),
        vendor: spec.map(|s| hex::encode(s.vendor)),
        banks: log.banks(),
        startup_locality: log.startup_locality(),
        events: EventsJson(&log.events),
        end: log.end.into(),
    }
}

/// The values that a log leads to.
pub(super) fn replay(path: &Path, bank: Option<Algorithm>, format: Format) -> Result<Answer> {
    let bytes = input::log(path)?;
    if UserLog::is(&bytes) {
        return userlog::replay(path, &bytes, bank, format);
    }
    let log = parse(path, &bytes)?;
    let mut notes: Vec<_> = broken(path, &log).into_iter().collect();
    let yes = notes.is_empty();
    let wanted: Vec<AlgorithmId> = match bank {
        Some(bank) => vec![AlgorithmId(bank.id())],
        None => log.banks(),
    };
    let (mut banks, mut skipped) = (BTreeMap::new(), BTreeMap::new());
    let mut in_order = Vec::new();
    for id in wanted {
        let Some(algorithm) = id.known() else {
            skipped.insert(id.to_string(), "this program does not know the algorithm".to_owned());
            continue;
        };
        let values = log.replay(algorithm)?;
        skipped.extend(lacking(&log, algorithm).map(|why| (id.to_string(), why)));
        in_order.push(values.clone());
        banks.insert(id.to_string(), values);
    }
    notes.extend(skipped.iter().map(|(bank, why)| format!("bank {bank}: {why}")));
    let text = match format {
        Format::Json => json(&ReplayJson { banks, skipped, end: log.end.into() })?,
        Format::Text => in_order.iter().map(bank_text).collect(),
    };
    Ok(Answer { text, notes, yes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_bank_is_named() {
        let bytes = [0, 0, 0, 0, 4, 0, 0, 0].into_iter().chain([1; 20]).chain([0; 4]);
        let bytes: Vec<u8> = bytes.collect();
        let log = EventLog::parse(&bytes);
        assert_eq!(log.events.len(), 1);
        let [sha1, sha256] = [AlgorithmId(4), AlgorithmId(0x0b)];
        let error = shown_bank(&log.banks(), Some(sha256), sha256).unwrap_err();
        assert_eq!(error.to_string(), "the log has no sha256 bank; it has sha1");
        assert_eq!(shown_bank(&log.banks(), None, sha256).unwrap(), sha1);
    }
}
