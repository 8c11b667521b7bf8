//! The evidence of a device: a head, which is one line of JSON, and IMA's list behind it to
//! the end (docs/reference.md).
//!
//! So nothing but the head is ever in memory, and no length stands anywhere that could lie:
//! where the list ends, the quoted PCR says.

use std::io::{self, BufRead, Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pcr_measure::PcrBank;
use serde::{Deserialize, Serialize};

/// The one schema that is read and written.
const SCHEMA: &str = "msec-boot/evidence/1";

/// Longest head, in bytes: an event log of 2 MiB fits, firmware reserves a few hundred KiB
/// at most.
pub const MAX_HEAD: usize = 4 << 20;

/// What is wrong with evidence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// The file, or the connection.
    #[error("the evidence cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The head does not end.
    #[error("the head of the evidence does not end within {MAX_HEAD} bytes")]
    TooLong,
    /// It ends within the head.
    #[error("the evidence ends within its head")]
    Cut,
    /// Another structure.
    #[error("the head of the evidence is none: {0}")]
    Json(String),
    /// Another schema.
    #[error("the evidence's schema is {0:?}; this program reads {SCHEMA:?}")]
    Schema(String),
}

impl EvidenceError {
    /// Whether the evidence is bad; otherwise it could not be read.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        !matches!(self, Self::Read(_))
    }
}

/// All of it but the list. Nothing is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What the TPM signed (`TPMS_ATTEST`).
    pub message: Vec<u8>,
    /// The signature (`TPMT_SIGNATURE`).
    pub signature: Vec<u8>,
    /// The values that it is over, of the SHA-256 bank.
    pub values: PcrBank,
    /// The firmware's event log; empty where there is none.
    pub event_log: Vec<u8>,
    /// The boot manifest that the device has of what it runs; empty where it has none.
    pub manifest: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    schema: String,
    message: String,
    signature: String,
    pcrs: PcrBank,
    event_log: String,
    manifest: String,
}

impl Head {
    /// The line, with its end.
    ///
    /// # Errors
    /// [`EvidenceError::TooLong`].
    pub fn to_line(&self) -> Result<Vec<u8>, EvidenceError> {
        let json = serde_json::to_vec(&Json {
            schema: SCHEMA.to_owned(),
            message: STANDARD.encode(&self.message),
            signature: STANDARD.encode(&self.signature),
            pcrs: self.values.clone(),
            event_log: STANDARD.encode(&self.event_log),
            manifest: STANDARD.encode(&self.manifest),
        });
        let mut line = json.map_err(|error| EvidenceError::Json(error.to_string()))?;
        line.push(b'\n');
        if line.len() > MAX_HEAD { Err(EvidenceError::TooLong) } else { Ok(line) }
    }

    /// Reads the head, and leaves the reader where the list begins.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub fn read(reader: &mut impl BufRead) -> Result<Self, EvidenceError> {
        let mut line = Vec::new();
        reader.by_ref().take(MAX_HEAD as u64).read_until(b'\n', &mut line)?;
        match line.pop() {
            Some(b'\n') => {}
            _ if line.len() + 1 >= MAX_HEAD => return Err(EvidenceError::TooLong),
            _ => return Err(EvidenceError::Cut),
        }
        let wrong = |error: &dyn std::fmt::Display| {
            // It may repeat what stands in the file.
            EvidenceError::Json(pcr_measure::text::printable(&error.to_string()))
        };
        let json: Json = serde_json::from_slice(&line).map_err(|error| wrong(&error))?;
        if json.schema != SCHEMA {
            return Err(EvidenceError::Schema(json.schema));
        }
        let bytes = |text: &str| STANDARD.decode(text).map_err(|error| wrong(&error));
        Ok(Self {
            message: bytes(&json.message)?,
            signature: bytes(&json.signature)?,
            values: json.pcrs,
            event_log: bytes(&json.event_log)?,
            manifest: bytes(&json.manifest)?,
        })
    }

    /// Writes head and list.
    ///
    /// # Errors
    /// [`EvidenceError::TooLong`]; the system's.
    pub fn write(&self, list: &mut impl Read, out: &mut impl Write) -> Result<(), EvidenceError> {
        out.write_all(&self.to_line()?)?;
        io::copy(list, out)?;
        out.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            message: vec![1, 2],
            signature: vec![3],
            values: serde_json::from_str(&format!("{{\"0\":\"{}\"}}", "5a".repeat(32))).unwrap(),
            event_log: vec![],
            manifest: b"{}".to_vec(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_the_list_follows() {
        let mut bytes = Vec::new();
        head().write(&mut &b"list\nwith lines"[..], &mut bytes).unwrap();
        let mut reader = &bytes[..];
        assert_eq!(Head::read(&mut reader).unwrap(), head());
        assert_eq!(reader, b"list\nwith lines");
        let line = head().to_line().unwrap();
        for cut in 0..line.len() {
            let read = Head::read(&mut &line[..cut]);
            assert!(matches!(read, Err(EvidenceError::Cut)), "{cut}: {read:?}");
        }
    }

    #[test]
    fn other_structures_are_refused() {
        let text = String::from_utf8(head().to_line().unwrap()).unwrap();
        for (from, to, why) in [
            ("evidence/1", "evidence/2", "schema"),
            ("\"message\"", "\"massage\"", "massage"),
            ("\"AQI=\"", "\"AQI\"", "padding"),
            ("{\"0\"", "{\"24\"", "24"),
            ("5a5a", "5a", "64"),
        ] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            let error = Head::read(&mut changed.as_bytes()).unwrap_err();
            assert!(error.is_refusal());
            assert!(error.to_string().to_lowercase().contains(why), "{error}");
        }
        let endless = io::repeat(b' ');
        let error = Head::read(&mut io::BufReader::new(endless)).unwrap_err();
        assert!(matches!(error, EvidenceError::TooLong));
    }
}
