//! The messages, without a network.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::attest::{Credential, CredentialError};

/// Largest PCR number and one.
const PCRS: u8 = 24;

/// What is wrong with an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Another structure.
    #[error("an answer that is not understood: {0}")]
    Json(#[from] serde_json::Error),
    /// No base64.
    #[error("an answer that is not understood: {0}")]
    Base64(base64::DecodeError),
    /// No credential.
    #[error("what the registrar sent: {0}")]
    Credential(#[from] CredentialError),
    /// The verifier asks for what was not offered.
    #[error("the verifier asks for {0}, which was not offered")]
    Unknown(String),
    /// OpenSSL.
    #[error("OpenSSL: {0}")]
    OpenSsl(#[from] openssl::error::ErrorStack),
}

fn decoded(text: &str) -> Result<Vec<u8>, MessageError> {
    STANDARD.decode(text).map_err(MessageError::Base64)
}

/// Registers a device: `TPM2B_PUBLIC` of its endorsement key and its attestation key, and the
/// maker's certificate (DER) for the former.
#[must_use]
pub fn registration(endorsement: &[u8], attestation: &[u8], certificate: Option<&[u8]>) -> Value {
    json!({
        "ek_tpm": STANDARD.encode(endorsement),
        "aik_tpm": STANDARD.encode(attestation),
        "ekcert": certificate.map(|der| STANDARD.encode(der)),
        "mtls_cert": "disabled",
    })
}

/// The credential in the answer to a registration.
///
/// # Errors
/// [`MessageError`].
pub fn registered(body: &[u8]) -> Result<Credential, MessageError> {
    #[derive(Deserialize)]
    struct Answer {
        results: Results,
    }
    #[derive(Deserialize)]
    struct Results {
        blob: String,
    }
    let answer: Answer = serde_json::from_slice(body)?;
    Ok(Credential::parse(&decoded(&answer.results.blob)?)?)
}

/// Proves that the credential was opened: the device's name under HMAC-SHA384, whose key is the
/// base64 of what was in it (Keylime, `crypto.do_hmac`).
///
/// # Errors
/// OpenSSL's.
pub fn activation(id: &str, opened: &[u8]) -> Result<Value, MessageError> {
    let key = PKey::hmac(STANDARD.encode(opened).as_bytes())?;
    let tag = Signer::new(MessageDigest::sha384(), &key)?.sign_oneshot_to_vec(id.as_bytes())?;
    Ok(json!({ "auth_tag": hex::encode(tag) }))
}

const PROOF: &str = "tpm_pop";

/// Asks for a session.
#[must_use]
pub fn session(id: &str) -> Value {
    json!({ "data": { "type": "session", "attributes": {
        "agent_id": id,
        "authentication_supported": [
            { "authentication_class": "pop", "authentication_type": PROOF },
        ],
    } } })
}

/// A session that waits for its proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub id: String,
    /// What the attestation key has to sign along.
    pub challenge: Vec<u8>,
}

#[derive(Deserialize)]
struct Body<A> {
    data: Data<A>,
}

#[derive(Deserialize)]
struct Data<A> {
    #[serde(default)]
    id: String,
    attributes: A,
    #[serde(default)]
    links: Links,
}

#[derive(Default, Deserialize)]
struct Links {
    #[serde(default, rename = "self")]
    itself: String,
}

/// Reads the answer to [`session`].
///
/// # Errors
/// [`MessageError`].
pub fn session_opened(body: &[u8]) -> Result<Session, MessageError> {
    #[derive(Deserialize)]
    struct Attributes {
        authentication_requested: Vec<Requested>,
    }
    #[derive(Deserialize)]
    struct Requested {
        authentication_type: String,
        chosen_parameters: Chosen,
    }
    let Data { id, attributes, .. } = serde_json::from_slice::<Body<Attributes>>(body)?.data;
    let all = attributes.authentication_requested;
    let wanted = all.iter().find(|its| its.authentication_type == PROOF);
    let wanted = wanted.ok_or_else(|| MessageError::Unknown("another proof".to_owned()))?;
    let challenge = decoded(wanted.chosen_parameters.challenge.as_deref().unwrap_or(""))?;
    Ok(Session { id, challenge })
}

/// The proof: the attestation key's certificate of itself.
#[must_use]
pub fn proof(id: &str, session: &Session, message: &[u8], signature: &[u8]) -> Value {
    json!({ "data": { "type": "session", "id": session.id, "attributes": {
        "agent_id": id,
        "authentication_provided": [{
            "authentication_class": "pop",
            "authentication_type": PROOF,
            "data": {
                "message": STANDARD.encode(message),
                "signature": STANDARD.encode(signature),
            },
        }],
    } } })
}

/// The token in the answer to a proof; `None` where the verifier does not take it, or does not
/// know the device.
///
/// # Errors
/// [`MessageError`].
pub fn token(body: &[u8]) -> Result<Option<String>, MessageError> {
    #[derive(Deserialize)]
    struct Attributes {
        evaluation: String,
        token: Option<String>,
    }
    let its = serde_json::from_slice::<Body<Attributes>>(body)?.data.attributes;
    Ok(its.token.filter(|_| its.evaluation == "pass"))
}

/// What the device can give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// When it has booted, in seconds since 1970.
    pub boot_time: u64,
    /// How many entries IMA's list has.
    pub entries: u64,
    /// Whether there is an event log of the firmware's.
    pub has_event_log: bool,
}

/// Offers evidence.
#[must_use]
pub fn offer(offer: &Offer) -> Value {
    let mut supported = vec![
        json!({
            "evidence_class": "certification",
            "evidence_type": QUOTE,
            "capabilities": {
                "component_version": "2.0",
                "signature_schemes": ["rsassa"],
                "hash_algorithms": ["sha256"],
                "available_subjects": { "sha256": (0..PCRS).collect::<Vec<_>>() },
                "certification_keys": [{
                    "key_class": "asymmetric",
                    "key_algorithm": "rsa",
                    "key_size": 2048,
                    "server_identifier": "ak",
                }],
            },
        }),
        json!({
            "evidence_class": "log",
            "evidence_type": LIST,
            "capabilities": {
                "entry_count": offer.entries,
                "supports_partial_access": true,
                "appendable": true,
                "formats": ["text/plain"],
            },
        }),
    ];
    if offer.has_event_log {
        supported.push(json!({
            "evidence_class": "log",
            "evidence_type": EVENT_LOG,
            "capabilities": {
                "supports_partial_access": false,
                "appendable": false,
                "formats": ["application/octet-stream"],
            },
        }));
    }
    json!({ "data": { "type": "attestation", "attributes": {
        "evidence_supported": supported,
        "system_info": { "boot_time": offer.boot_time },
    } } })
}

const QUOTE: &str = "tpm_quote";
const LIST: &str = "ima_log";
const EVENT_LOG: &str = "uefi_log";

/// One thing that the verifier wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A quote over these PCRs of the SHA-256 bank.
    Quote {
        /// The nonce.
        challenge: Vec<u8>,
        /// The PCRs.
        pcrs: Vec<u32>,
    },
    /// The lines of IMA's list behind so many.
    List {
        /// How many it has already.
        offset: u64,
    },
    /// The firmware's event log.
    EventLog,
}

#[derive(Default, Deserialize)]
struct Chosen {
    challenge: Option<String>,
    signature_scheme: Option<String>,
    selected_subjects: Option<Subjects>,
    starting_offset: Option<u64>,
}

#[derive(Deserialize)]
struct Subjects {
    sha256: Option<Vec<u32>>,
}

/// An attestation that waits for its evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its number.
    pub index: String,
    /// What is wanted, in the order in which it has to come.
    pub wanted: Vec<Wanted>,
}

/// Reads the answer to an offer.
///
/// # Errors
/// [`MessageError`]; that something is wanted that was not offered.
pub fn requested(body: &[u8]) -> Result<Request, MessageError> {
    #[derive(Deserialize)]
    struct Attributes {
        evidence_requested: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        evidence_type: String,
        #[serde(default)]
        chosen_parameters: Chosen,
    }
    let Data { attributes, links, .. } = serde_json::from_slice::<Body<Attributes>>(body)?.data;
    let wanted = |item: &Item| {
        let chosen = &item.chosen_parameters;
        match item.evidence_type.as_str() {
            QUOTE => {
                let scheme = chosen.signature_scheme.as_deref().unwrap_or("rsassa");
                let pcrs = chosen.selected_subjects.as_ref().and_then(|its| its.sha256.clone());
                match (pcrs, &chosen.challenge) {
                    (Some(pcrs), Some(challenge)) if scheme == "rsassa" => {
                        Ok(Wanted::Quote { challenge: decoded(challenge)?, pcrs })
                    }
                    _ => Err(MessageError::Unknown(format!("a quote by {scheme}"))),
                }
            }
            LIST => Ok(Wanted::List { offset: chosen.starting_offset.unwrap_or(0) }),
            EVENT_LOG => Ok(Wanted::EventLog),
            other => Err(MessageError::Unknown(other.to_owned())),
        }
    };
    let wanted = attributes.evidence_requested.iter().map(wanted).collect::<Result<_, _>>()?;
    let index = links.itself.rsplit('/').next().unwrap_or_default();
    let is_number = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
    // Another one can only come later: then the verifier says so.
    let index = if is_number { index } else { "latest" };
    Ok(Request { index: index.to_owned(), wanted })
}

/// A quote as evidence; `values` as `tpm2_quote -o` writes them.
#[must_use]
pub fn quote(message: &[u8], signature: &[u8], values: &[u8]) -> Value {
    json!({
        "evidence_class": "certification",
        "evidence_type": QUOTE,
        "data": {
            "subject_data": STANDARD.encode(values),
            "message": STANDARD.encode(message),
            "signature": STANDARD.encode(signature),
        },
    })
}

/// Lines of IMA's list as evidence.
#[must_use]
pub fn list(entries: u64, lines: &str) -> Value {
    json!({
        "evidence_class": "log",
        "evidence_type": LIST,
        "data": { "entry_count": entries, "entries": lines },
    })
}

/// An event log as evidence.
#[must_use]
pub fn event_log(log: &[u8]) -> Value {
    json!({
        "evidence_class": "log",
        "evidence_type": EVENT_LOG,
        "data": { "entries": STANDARD.encode(log) },
    })
}

/// All of the evidence.
#[must_use]
pub fn evidence(collected: &[Value]) -> Value {
    json!({ "data": { "type": "attestation", "attributes": { "evidence_collected": collected } } })
}

/// Seconds until the verifier wants evidence again, from the answer to evidence.
#[must_use]
pub fn next(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Answer {
        meta: Meta,
    }
    #[derive(Deserialize)]
    struct Meta {
        seconds_to_next_attestation: u64,
    }
    let answer = serde_json::from_slice::<Answer>(body);
    answer.ok().map(|its| its.meta.seconds_to_next_attestation)
}

/// What the verifier thinks of the device.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// `PASS`, `FAIL`, `PENDING` or `TIMEOUT`.
    pub attestation_status: String,
    /// How many attestations were accepted.
    #[serde(default)]
    pub attestation_count: Option<u64>,
}

/// Reads it.
///
/// # Errors
/// [`MessageError`].
pub fn status(body: &[u8]) -> Result<Status, MessageError> {
    #[derive(Deserialize)]
    struct Answer {
        results: Status,
    }
    Ok(serde_json::from_slice::<Answer>(body)?.results)
}

/// Whether the verifier says that it takes no evidence of this device any more. An answer of the
/// same status (403) without it is about the session.
#[must_use]
pub fn is_disabled(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Answer {
        errors: Vec<Problem>,
    }
    #[derive(Deserialize)]
    struct Problem {
        #[serde(default)]
        code: String,
    }
    let answer = serde_json::from_slice::<Answer>(body);
    answer.is_ok_and(|its| its.errors.iter().any(|its| its.code == "agent_attestations_disabled"))
}

/// Why something was not done, as far as the answer says.
#[must_use]
pub fn reason(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        errors: Vec<Problem>,
        #[serde(default)]
        status: String,
    }
    #[derive(Deserialize)]
    struct Problem {
        #[serde(default)]
        title: String,
        #[serde(default)]
        detail: String,
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else { return String::new() };
    let told = answer.errors.into_iter().map(|its| match its.detail.is_empty() {
        true => its.title,
        false => its.detail,
    });
    let told: Vec<_> = told.chain([answer.status]).filter(|its| !its.is_empty()).collect();
    pcr_measure::text::printable(&told.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_offered_is_not_given() {
        let body = |item: &str| {
            format!(
                r#"{{"data":{{"type":"attestation","attributes":{{"evidence_requested":[{item}]}},
                "links":{{"self":"/v3.0/agents/x/attestations/7"}}}}}}"#
            )
        };
        let quote = r#"{"evidence_type":"tpm_quote","chosen_parameters":{"challenge":"AQI=",
            "signature_scheme":"rsassa","selected_subjects":{"sha256":[0,10]}}}"#;
        let list = r#"{"evidence_type":"ima_log","chosen_parameters":{"starting_offset":3}}"#;
        let request = requested(body(&format!("{quote},{list}")).as_bytes()).unwrap();
        assert_eq!(request.index, "7");
        let wanted = [
            Wanted::Quote { challenge: vec![1, 2], pcrs: vec![0, 10] },
            Wanted::List { offset: 3 },
        ];
        assert_eq!(request.wanted, wanted);
        for other in [
            quote.replace("rsassa", "ecdsa"),
            quote.replace("sha256", "sha1"),
            quote.replace("tpm_quote", "secrets"),
            list.replace('3', "-3"),
        ] {
            requested(body(&other).as_bytes()).unwrap_err();
        }
        let elsewhere = body(list).replace("/attestations/7", "/attestations/../../x");
        assert_eq!(requested(elsewhere.as_bytes()).unwrap().index, "latest");
    }

    #[test]
    fn a_proof_that_was_not_taken_gives_no_token() {
        let body = |evaluation: &str| {
            format!(r#"{{"data":{{"attributes":{{"evaluation":"{evaluation}","token":"a.b"}}}}}}"#)
        };
        assert_eq!(token(body("pass").as_bytes()).unwrap().as_deref(), Some("a.b"));
        assert_eq!(token(body("fail").as_bytes()).unwrap(), None);
        token(b"{}").unwrap_err();
    }

    #[test]
    fn a_session_that_has_ended_refuses_nobody() {
        let body = |code| format!(r#"{{"errors":[{{"status":"403",{code}"detail":"no"}}]}}"#);
        assert!(is_disabled(body(r#""code":"agent_attestations_disabled","#).as_bytes()));
        assert!(!is_disabled(body("").as_bytes()));
        assert!(!is_disabled(b""));
        assert_eq!(reason(body("").as_bytes()), "no");
    }

    #[test]
    fn the_tag_is_what_keylime_computes() {
        // hmac.new(b"BwcHBw==", b"device", "sha384").hexdigest() in Python
        let tag = activation("device", &[7; 4]).unwrap();
        assert_eq!(tag["auth_tag"].as_str().unwrap(), TAG);
    }

    const TAG: &str = "c397eb6c3f1efc5d6b5af48e6ea59765368c3c4704df5b09ad8e0e367364a2351508be2588a3df737a652fbbce25d225";
}
