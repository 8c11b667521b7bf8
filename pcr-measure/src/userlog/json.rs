//! A record's JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BrokenRecord, Content, MAX_DIGESTS, Record, Systemd};
use crate::digest::{Algorithm, Digest};
use crate::pcr::PcrIndex;
use crate::text::printable;

/// The `content_type` of systemd's records.
const SYSTEMD: &str = "systemd";

/// Field by field, in the order in which systemd writes them. Fields that are
/// not here (`recnum` of a canonical event log) are passed over.
#[derive(Serialize, Deserialize)]
struct RecordJson<C> {
    pcr: PcrIndex,
    digests: Vec<DigestJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<C>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DigestJson {
    hash_alg: String,
    digest: String,
}

/// What is written: systemd's fields in its order, others as they come.
#[derive(Serialize)]
#[serde(untagged)]
enum ContentJson {
    Systemd(SystemdJson),
    Other(Value),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SystemdJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    string: Option<String>,
    boot_id: String,
    timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
}

pub(super) fn write(record: &Record) -> Result<Vec<u8>, BrokenRecord> {
    let digest = |digest: &Digest| DigestJson {
        hash_alg: digest.algorithm().name().to_owned(),
        digest: digest.to_string(),
    };
    let (content_type, content) = match &record.content {
        Content::Systemd(Systemd { string, boot_id, timestamp, event_type }) => (
            Some(SYSTEMD.to_owned()),
            Some(ContentJson::Systemd(SystemdJson {
                string: string.clone(),
                boot_id: boot_id.clone(),
                timestamp: *timestamp,
                event_type: event_type.clone(),
            })),
        ),
        Content::Other { content_type, content } => {
            (content_type.clone(), content.clone().map(ContentJson::Other))
        }
    };
    let digests = record.digests.iter().map(digest).collect();
    let json = RecordJson { pcr: record.pcr, digests, content_type, content };
    serde_json::to_vec(&json).map_err(|error| not_json(&error))
}

pub(super) fn read(text: &[u8]) -> Result<Record, BrokenRecord> {
    let json: RecordJson<Value> = serde_json::from_slice(text).map_err(|error| not_json(&error))?;
    if json.digests.is_empty() || json.digests.len() > MAX_DIGESTS {
        return Err(BrokenRecord::DigestCount(json.digests.len()));
    }
    let mut digests = Vec::new();
    for DigestJson { hash_alg, digest } in &json.digests {
        if let Ok(algorithm) = hash_alg.parse::<Algorithm>() {
            let digest = Digest::from_hex(algorithm, digest);
            digests.push(digest.map_err(|_| BrokenRecord::Digest(algorithm))?);
        }
    }
    let content = content(json.content_type, json.content);
    Ok(Record { pcr: json.pcr, digests, content })
}

/// systemd's content, or anything else as it is.
fn content(content_type: Option<String>, content: Option<Value>) -> Content {
    if let (Some(SYSTEMD), Some(value)) = (content_type.as_deref(), &content)
        && let Ok(json) = SystemdJson::deserialize(value)
    {
        let SystemdJson { string, boot_id, timestamp, event_type } = json;
        return Content::Systemd(Systemd { string, boot_id, timestamp, event_type });
    }
    Content::Other { content_type, content }
}

/// serde quotes what it found.
fn not_json(error: &serde_json::Error) -> BrokenRecord {
    BrokenRecord::Json(printable(&error.to_string()))
}
