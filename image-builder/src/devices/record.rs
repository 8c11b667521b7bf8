//! A device record as it is read: `msec-boot/device-record/1`.

use std::time::{Duration, SystemTime};

use pcr_measure::structures::TpmPublic;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// The file's name on the boot partition.
pub const NAME: &str = "device-record.json";

/// The form that is read.
const SCHEMA: &str = "msec-boot/device-record/1";

/// Largest record, in bytes. One with keys, certificate and recovery key has about five
/// thousand.
pub const MAX_SIZE: usize = 64 << 10;

/// Longest name or number, in bytes.
const MAX_TEXT: usize = 256;

/// Why something is no record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// Too large.
    #[error("it has {0} bytes; a device record has {MAX_SIZE} at most")]
    Size(usize),
    /// It is not JSON, or a field is missing or has the wrong type.
    #[error("it is no device record: {0}")]
    Json(String),
    /// Of another kind.
    #[error("it has the schema {0:?}; this program reads {SCHEMA}")]
    Schema(String),
    /// A field that says nothing useful.
    #[error("{field}: {reason}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a record says. Nothing of it is vouched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The bytes as they came.
    pub json: Vec<u8>,
    /// When it was made, where the board's clock was set.
    pub created: Option<SystemTime>,
    /// Name of the image that provisioned it.
    pub image: String,
    /// Kind of board.
    pub board: String,
    /// Model, as the firmware says.
    pub model: Option<String>,
    /// Serial number, as the firmware says.
    pub serial: Option<String>,
    /// UUID of the LUKS2 volume.
    pub volume: String,
    /// Name of the endorsement key: which TPM this is.
    pub ek_name: Option<Vec<u8>>,
    /// Public area of the endorsement key (`TPMT_PUBLIC`), whose Name is `ek_name`.
    pub ek_public: Option<Vec<u8>>,
    /// The endorsement key's certificate, DER.
    pub ek_certificate: Option<Vec<u8>>,
    /// Name of the attestation key.
    pub ak_name: Option<Vec<u8>>,
    /// Whom the recovery key is encrypted to.
    pub recipient: Option<String>,
    /// The recovery key, an armoured age file.
    pub recovery_key: Option<String>,
}

#[derive(Deserialize)]
struct Json {
    schema: String,
    created: Created,
    image: String,
    board: String,
    device: Device,
    tpm: Tpm,
    luks: Luks,
    recipient: Option<String>,
    recovery_key: Option<String>,
}

#[derive(Deserialize)]
struct Created {
    unix_time: Option<u64>,
}

#[derive(Deserialize)]
struct Device {
    model: Option<String>,
    serial: Option<String>,
}

#[derive(Deserialize)]
struct Tpm {
    ek: Option<Key>,
    ak: Option<Key>,
}

#[derive(Deserialize)]
struct Key {
    name: String,
    public: String,
    certificate: Option<String>,
}

#[derive(Deserialize)]
struct Luks {
    uuid: String,
}

/// A key whose Name is that of its public area.
struct ReadKey {
    name: Vec<u8>,
    public: Vec<u8>,
    certificate: Option<Vec<u8>>,
}

/// The form alone, to tell a newer record from nonsense.
#[derive(Deserialize)]
struct Form {
    schema: String,
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    /// [`RecordError`]: not a record, of another schema, or inconsistent with itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_SIZE {
            return Err(RecordError::Size(bytes.len()));
        }
        let json = |error: serde_json::Error| RecordError::Json(error.to_string());
        let form: Form = serde_json::from_slice(bytes).map_err(json)?;
        if form.schema != SCHEMA {
            return Err(RecordError::Schema(form.schema.chars().take(MAX_TEXT).collect()));
        }
        let read: Json = serde_json::from_slice(bytes).map_err(json)?;
        debug_assert_eq!(read.schema, SCHEMA);
        let ek = read.tpm.ek.map(|key| key.read("tpm.ek")).transpose()?;
        let ak = read.tpm.ak.map(|key| key.read("tpm.ak")).transpose()?;
        let (ek_name, ek_public, ek_certificate) = match ek {
            Some(ek) => (Some(ek.name), Some(ek.public), ek.certificate),
            None => (None, None, None),
        };
        Ok(Self {
            created: read.created.unix_time.and_then(|seconds| {
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
            }),
            image: text("image", read.image)?,
            board: text("board", read.board)?,
            model: read.device.model.map(|model| text("device.model", model)).transpose()?,
            serial: read.device.serial.map(|serial| text("device.serial", serial)).transpose()?,
            volume: text("luks.uuid", read.luks.uuid)?,
            ek_name,
            ek_public,
            ek_certificate,
            ak_name: ak.map(|ak| ak.name),
            recipient: read.recipient.map(|recipient| text("recipient", recipient)).transpose()?,
            recovery_key: read.recovery_key,
            json: bytes.to_vec(),
        })
    }

    /// SHA-256 of its bytes, in hexadecimal: the same record is known again.
    pub fn digest(&self) -> String {
        hex::encode(Sha256::digest(&self.json))
    }
}

impl Key {
    /// Name, public area and certificate. The Name has to be the public area's.
    fn read(self, field: &'static str) -> Result<ReadKey, RecordError> {
        let wrong = |reason: String| RecordError::Field { field, reason };
        let bytes = |text: &str| hex::decode(text).map_err(|error| wrong(error.to_string()));
        let (name, public) = (bytes(&self.name)?, bytes(&self.public)?);
        let certificate = self.certificate.as_deref().map(bytes).transpose()?;
        let area = TpmPublic::parse(&public).map_err(|error| wrong(error.to_string()))?;
        let real = area.name().map_err(|error| wrong(error.to_string()))?;
        if real != name {
            return Err(wrong("the Name is not that of the public area".to_owned()));
        }
        Ok(ReadKey { name, public, certificate })
    }
}

/// A text that can be shown on a terminal and in a table.
fn text(field: &'static str, text: String) -> Result<String, RecordError> {
    let wrong = |reason: &str| RecordError::Field { field, reason: reason.to_owned() };
    if text.is_empty() {
        return Err(wrong("it is empty"));
    }
    if text.len() > MAX_TEXT {
        return Err(wrong("it is too long"));
    }
    if text.chars().any(char::is_control) {
        return Err(wrong("it has control characters"));
    }
    Ok(text)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use openssl::pkey::{PKey, Private};
    use serde_json::{Value, json};

    /// A key pair on P-256, and its public area in the form of an endorsement key
    /// (TCG EK Credential Profile 2.5, B.3.4), and the Name of that.
    pub(crate) struct TestKey {
        pub(crate) pair: PKey<Private>,
        pub(crate) public: Vec<u8>,
        pub(crate) name: Vec<u8>,
    }

    impl TestKey {
        pub(crate) fn new() -> Self {
            use openssl::{bn, ec, nid::Nid};
            let group = ec::EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
            let key = ec::EcKey::generate(&group).unwrap();
            let mut context = bn::BigNumContext::new().unwrap();
            let (mut x, mut y) = (bn::BigNum::new().unwrap(), bn::BigNum::new().unwrap());
            key.public_key().affine_coordinates(&group, &mut x, &mut y, &mut context).unwrap();
            // ECC, SHA-256, attributes, no policy, AES-128-CFB, no scheme, P-256, no KDF.
            let mut public =
                hex::decode("0023000b000300b200000006008000430010000300100020").unwrap();
            public.extend(x.to_vec_padded(32).unwrap());
            public.extend([0, 32]);
            public.extend(y.to_vec_padded(32).unwrap());
            let name = TpmPublic::parse(&public).unwrap().name().unwrap();
            Self { pair: PKey::from_ec_key(key).unwrap(), public, name }
        }

        pub(crate) fn json(&self) -> Value {
            json!({"name": hex::encode(&self.name), "public": hex::encode(&self.public)})
        }
    }

    /// A record with an endorsement and an attestation key.
    pub(crate) fn record(ek: &TestKey, serial: &str, volume: &str) -> Value {
        json!({
            "schema": SCHEMA,
            "created": {"boot_id": "b", "unix_time": 1_800_000_000_u64},
            "image": "msec-rpi3", "board": "rpi3",
            "device": {"model": "Raspberry Pi 3 Model B", "serial": serial},
            "tpm": {"ek": ek.json(), "ak": TestKey::new().json(), "srk": {}},
            "luks": {"uuid": volume},
        })
    }

    pub(crate) fn bytes(record: &Value) -> Vec<u8> {
        serde_json::to_vec(record).unwrap()
    }

    #[test]
    fn a_record_is_read_with_its_keys() {
        let ek = TestKey::new();
        let json = bytes(&record(&ek, "00000000deadbeef", "u-1"));
        let read = Record::parse(&json).unwrap();
        assert_eq!(read.serial.as_deref(), Some("00000000deadbeef"));
        assert_eq!(read.ek_name.as_ref(), Some(&ek.name));
        assert_eq!(read.created, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)));
        assert_eq!(read.json, json);
    }

    #[test]
    fn what_is_optional_may_be_missing() {
        let mut value = record(&TestKey::new(), "1", "u-1");
        value["created"] = json!({});
        value["device"] = json!({"model": null, "serial": null});
        value["tpm"] = json!({});
        let read = Record::parse(&bytes(&value)).unwrap();
        assert_eq!((read.ek_name, read.serial, read.created), (None, None, None));
    }

    #[test]
    fn what_is_no_record_is_refused_by_name() {
        let good = record(&TestKey::new(), "1", "u-1");
        let changed = |change: fn(&mut Value)| {
            let mut value = good.clone();
            change(&mut value);
            Record::parse(&bytes(&value)).unwrap_err().to_string()
        };
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 8] = [
            (|v| v["schema"] = "msec-boot/device-record/2".into(), "this program reads"),
            (|v| drop(v.as_object_mut().unwrap().remove("luks")), "missing field `luks`"),
            (|v| v["luks"]["uuid"] = "".into(), "luks.uuid: it is empty"),
            (|v| v["device"]["serial"] = "a\u{1b}[2J".into(), "device.serial: it has control"),
            (|v| v["image"] = "x".repeat(300).into(), "image: it is too long"),
            (|v| v["tpm"]["ek"]["public"] = "zz".into(), "tpm.ek: "),
            (|v| v["tpm"]["ek"]["name"] = "000b00".into(), "the Name is not that"),
            (|v| v["tpm"]["ak"]["public"] = "0023".into(), "tpm.ak: "),
        ];
        for (change, expected) in cases {
            let error = changed(change);
            assert!(error.contains(expected), "{expected}: {error}");
        }
        assert!(Record::parse(b"\x7fELF").unwrap_err().to_string().contains("no device record"));
        assert_eq!(Record::parse(&vec![b' '; MAX_SIZE + 1]), Err(RecordError::Size(MAX_SIZE + 1)));
    }
}
