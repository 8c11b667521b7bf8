//! What an event's data seems to say. For people; never for a decision.

use super::{Event, EventType};
use crate::reader::Reader;
use crate::text::printable;

pub(super) fn describe(event: &Event<'_>) -> String {
    let data = event.data;
    match event.event_type {
        EventType::SEPARATOR => separator(data),
        EventType::NO_ACTION => no_action(event),
        EventType(0x8000_0001 | 0x8000_0002 | 0x8000_000c | 0x8000_00e0) => {
            variable(data).unwrap_or_else(|| bytes(data))
        }
        _ => text(data).unwrap_or_else(|| bytes(data)),
    }
}

/// PFP 1.06, 10.4.1 EV_SEPARATOR: 0 or 0xffffffff is the end of a phase, 1 an error.
fn separator(data: &[u8]) -> String {
    match data {
        [0, 0, 0, 0] | [0xff, 0xff, 0xff, 0xff] => "end of firmware".to_owned(),
        [1, 0, 0, 0] => "the firmware reports an error".to_owned(),
        _ => text(data).unwrap_or_else(|| bytes(data)),
    }
}

fn no_action(event: &Event<'_>) -> String {
    if let Some(locality) = event.startup_locality() {
        return format!("the TPM was started from locality {locality}");
    }
    // Each begins with a name that ends in NUL.
    let name = event.data.split(|byte| *byte == 0).next().unwrap_or_default();
    text(name).unwrap_or_else(|| bytes(event.data))
}

/// `UEFI_VARIABLE_DATA` (PFP 1.06, 10.4.6): GUID, two lengths, UCS-2 name, data.
fn variable(data: &[u8]) -> Option<String> {
    let mut reader = Reader::new(data);
    reader.bytes(16).ok()?;
    let (name_units, data_size) = (reader.u64().ok()?, reader.u64().ok()?);
    let name = reader.bytes(usize::try_from(name_units.checked_mul(2)?).ok()?).ok()?;
    Some(format!("{} ({data_size} bytes)", utf16(name)?))
}

/// ASCII or UCS-2 text, with or without NULs at the end.
fn text(data: &[u8]) -> Option<String> {
    let end = data.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let ascii = data.get(..end)?;
    if ascii.is_empty() {
        return None;
    }
    if ascii.iter().all(|b| matches!(b, b' '..=b'~' | b'\t' | b'\n' | b'\r')) {
        return Some(printable(std::str::from_utf8(ascii).ok()?));
    }
    utf16(data)
}

/// UCS-2 text of printable ASCII, with or without NULs at the end.
fn utf16(data: &[u8]) -> Option<String> {
    let (pairs, odd) = data.as_chunks::<2>();
    let units: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    let end = units.iter().rposition(|unit| *unit != 0)? + 1;
    let shown = units.get(..end).filter(|_| odd.is_empty())?;
    let plain = shown.iter().all(|unit| (0x20..0x7f).contains(unit));
    plain.then(|| printable(&String::from_utf16_lossy(shown)))
}

fn bytes(data: &[u8]) -> String {
    match data.len() {
        0 => "no data".to_owned(),
        n => format!("{n} bytes"),
    }
}
