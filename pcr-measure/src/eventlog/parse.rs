//! From bytes to events.

use super::{
    AlgorithmId, BrokenEvent, Event, EventDigest, EventLog, EventType, Format, LogEnd, SpecId,
};
use crate::digest::Algorithm;
use crate::pcr::PcrIndex;
use crate::reader::{Reader, Short};

/// Signature of the header of a crypto-agile log (PFP 1.06, 10.4.5.1).
const SPEC_ID_03: &[u8] = b"Spec ID Event03\0";

/// Banks that a header may name. No TPM has more than the registry has hashes;
/// the bound keeps a forged header from making every event slow.
const MAX_BANKS: u32 = 16;

impl From<Short> for BrokenEvent {
    fn from(_: Short) -> Self {
        Self::Truncated
    }
}

pub(super) fn parse(bytes: &[u8]) -> EventLog<'_> {
    let used = used(bytes);
    let mut reader = Reader::new(bytes);
    let mut log = EventLog { format: Format::Sha1, events: Vec::new(), end: LogEnd::Complete };
    while !reader.rest().is_empty() {
        let offset = reader.offset();
        if offset >= used {
            log.end = LogEnd::Padding { offset };
            break;
        }
        match next_event(&mut reader, &mut log) {
            Ok(event) => log.events.push(event),
            Err(reason) => {
                log.end = LogEnd::Broken { offset, reason };
                break;
            }
        }
    }
    log
}

/// Where the fill behind the last event begins, or the end. Firmware clears the
/// log's memory to zeros (U-Boot's is, Linux's copy too) or to ones (edk2).
fn used(bytes: &[u8]) -> usize {
    match bytes.last() {
        Some(fill @ (0 | 0xff)) => bytes.iter().rposition(|b| b != fill).map_or(0, |last| last + 1),
        _ => bytes.len(),
    }
}

fn next_event<'a>(
    reader: &mut Reader<'a>,
    log: &mut EventLog<'a>,
) -> Result<Event<'a>, BrokenEvent> {
    let event = match &log.format {
        // The first event has the old form in every log: it may be the header
        // that says what form the others have.
        Format::Sha1 => sha1_event(reader)?,
        Format::CryptoAgile(spec) => agile_event(reader, spec)?,
    };
    if log.events.is_empty()
        && !event.is_extended()
        && let Some(body) = event.data.strip_prefix(SPEC_ID_03)
    {
        log.format = Format::CryptoAgile(spec_id(body)?);
    }
    if event.is_extended() && PcrIndex::new(event.pcr).is_err() {
        return Err(BrokenEvent::NoSuchPcr(event.pcr));
    }
    Ok(event)
}

/// `TCG_PCClientPCREvent` (PFP 1.06, 10.2.1).
fn sha1_event<'a>(reader: &mut Reader<'a>) -> Result<Event<'a>, BrokenEvent> {
    let offset = reader.offset();
    let pcr = reader.u32()?;
    let event_type = EventType(reader.u32()?);
    let digest = reader.bytes(Algorithm::Sha1.size())?;
    let size = reader.u32()?;
    let data = reader.sized(size)?;
    let algorithm = AlgorithmId(Algorithm::Sha1.id());
    let digests = vec![EventDigest { algorithm, bytes: digest }];
    Ok(Event { offset, pcr, event_type, digests, data })
}

/// `TCG_PCR_EVENT2` (PFP 1.06, 10.2.2).
fn agile_event<'a>(reader: &mut Reader<'a>, spec: &SpecId<'_>) -> Result<Event<'a>, BrokenEvent> {
    let offset = reader.offset();
    let pcr = reader.u32()?;
    let event_type = EventType(reader.u32()?);
    let count = reader.u32()?;
    if usize::try_from(count).map_or(true, |count| count > spec.algorithms.len()) {
        return Err(BrokenEvent::DigestCount(count));
    }
    let mut digests: Vec<EventDigest<'a>> = Vec::new();
    for _ in 0..count {
        let algorithm = AlgorithmId(reader.u16()?);
        let size = spec.algorithms.iter().find(|(id, _)| *id == algorithm);
        let (_, size) = size.ok_or(BrokenEvent::UnknownBank(algorithm))?;
        if digests.iter().any(|digest| digest.algorithm == algorithm) {
            return Err(BrokenEvent::DigestTwice(algorithm));
        }
        digests.push(EventDigest { algorithm, bytes: reader.bytes((*size).into())? });
    }
    let size = reader.u32()?;
    let data = reader.sized(size)?;
    Ok(Event { offset, pcr, event_type, digests, data })
}

/// `TCG_EfiSpecIdEvent` behind its signature (PFP 1.06, 10.4.5.1).
fn spec_id(body: &[u8]) -> Result<SpecId<'_>, BrokenEvent> {
    let mut reader = Reader::new(body);
    let platform_class = reader.u32()?;
    let (minor, major, errata) = (reader.u8()?, reader.u8()?, reader.u8()?);
    let uintn_size = reader.u8()?;
    let count = reader.u32()?;
    if count == 0 || count > MAX_BANKS {
        return Err(BrokenEvent::BankCount(count));
    }
    let mut algorithms: Vec<(AlgorithmId, u16)> = Vec::new();
    for _ in 0..count {
        let (algorithm, size) = (AlgorithmId(reader.u16()?), reader.u16()?);
        if algorithm.known().is_some_and(|known| known.size() != usize::from(size)) {
            return Err(BrokenEvent::BankSize { algorithm, size });
        }
        if algorithms.iter().any(|(other, _)| *other == algorithm) {
            return Err(BrokenEvent::BankTwice(algorithm));
        }
        algorithms.push((algorithm, size));
    }
    let vendor_size = reader.u8()?;
    let vendor = reader.bytes(vendor_size.into())?;
    Ok(SpecId { platform_class, version: (major, minor, errata), uintn_size, algorithms, vendor })
}
