//! The device record: what a fleet's list needs to know of a board that was just
//! provisioned, as JSON on the boot partition.
//!
//! Nothing ever reads it to decide anything: it lies on the card in clear and
//! unauthenticated. It holds one secret, the recovery key, and only encrypted to
//! the operator.

use crate::age::{self, EncryptError, Ephemeral, Recipient};
use crate::board::Board;
use crate::config::write_handle;
use crate::recovery::RecoveryKey;
use crate::token::Token;
use crate::tpm::{AK, Key};
use pcr_measure::Sha256Digest;
use pcr_measure::manifest::Manifest;
use pcr_measure::pcr::PcrSelection;
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// The file's name on the boot partition.
pub const NAME: &str = "device-record.json";
/// The form of the record.
pub const SCHEMA: &str = "msec-boot/device-record/1";

/// 2026-01-01 in seconds since 1970. A clock before it is not set: a Raspberry Pi
/// has none that runs without power.
const CLOCK_IS_SET: Duration = Duration::from_secs(1_767_225_600);

/// The record.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceRecord {
    schema: &'static str,
    /// When it was made.
    pub created: Created,
    /// Name of the image, from its boot manifest.
    pub image: String,
    /// Kind of board that the image is for, from its boot manifest.
    pub board: String,
    /// The board itself.
    pub device: Board,
    /// The TPM.
    pub tpm: TpmRecord,
    /// The encrypted root.
    pub luks: LuksRecord,
    /// Whom the recovery key is encrypted to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<Recipient>,
    /// The recovery key, an armoured age file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_key: Option<String>,
}

/// When a record was made, as far as the board knows.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Created {
    /// The boot's random name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Seconds since 1970, UTC, where the clock is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix_time: Option<u64>,
}

impl Created {
    /// Now, by this clock.
    #[must_use]
    pub fn at(boot_id: Option<String>, now: SystemTime) -> Self {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let unix_time = (since >= CLOCK_IS_SET).then_some(since.as_secs());
        Self { boot_id, unix_time }
    }
}

/// The TPM and what it guards.
#[derive(Debug, Clone, Serialize)]
pub struct TpmRecord {
    /// The endorsement key; left out where the TPM makes none without a password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ek: Option<Endorsement>,
    /// The attestation key; as `ek`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ak: Option<Attestation>,
    /// The storage root key.
    pub srk: Srk,
    /// Handle of the NV index with the secret.
    #[serde(serialize_with = "write_handle")]
    pub nv_index: u32,
    /// Digest of the policy that guards it.
    pub policy: Sha256Digest,
    /// PCRs of the policy.
    pub pcrs: PcrSelection,
}

/// The endorsement key.
#[derive(Debug, Clone, Serialize)]
pub struct Endorsement {
    template: &'static str,
    #[serde(flatten)]
    key: Key,
    /// The maker's certificate for it, DER in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
}

/// The TPM's endorsement key, as far as it tells.
#[derive(Debug, Clone)]
pub struct EndorsementKey {
    /// The key.
    pub key: Key,
    /// The maker's certificate for it, DER.
    pub certificate: Option<Vec<u8>>,
}

/// The attestation key.
#[derive(Debug, Clone, Serialize)]
pub struct Attestation {
    #[serde(serialize_with = "write_handle")]
    handle: u32,
    #[serde(flatten)]
    key: Key,
}

/// The storage root key.
#[derive(Debug, Clone, Serialize)]
pub struct Srk {
    #[serde(serialize_with = "write_handle")]
    handle: u32,
    #[serde(with = "hex::serde")]
    name: Vec<u8>,
}

impl TpmRecord {
    /// What the token says of the seal, and the keys.
    #[must_use]
    pub fn new(token: &Token, ek: Option<EndorsementKey>, ak: Option<Key>) -> Self {
        Self {
            ek: ek.map(|ek| Endorsement {
                template: "L-2",
                key: ek.key,
                certificate: ek.certificate.map(hex::encode),
            }),
            ak: ak.map(|key| Attestation { handle: AK, key }),
            srk: Srk { handle: token.srk, name: token.srk_name.clone() },
            nv_index: token.nv_index,
            policy: token.policy,
            pcrs: token.pcrs,
        }
    }
}

/// The encrypted root.
#[derive(Debug, Clone, Serialize)]
pub struct LuksRecord {
    /// UUID of the LUKS2 volume.
    pub uuid: String,
}

impl DeviceRecord {
    /// A record without a recovery key.
    #[must_use]
    pub fn new(
        created: Created,
        manifest: &Manifest,
        device: Board,
        tpm: TpmRecord,
        uuid: String,
    ) -> Self {
        Self {
            schema: SCHEMA,
            created,
            image: manifest.image().to_owned(),
            board: manifest.board().to_owned(),
            device,
            tpm,
            luks: LuksRecord { uuid },
            recipient: None,
            recovery_key: None,
        }
    }

    /// Adds the recovery key, encrypted to `recipient`.
    ///
    /// # Errors
    /// [`EncryptError`], which a recovery key does not cause.
    pub fn escrow(
        &mut self,
        recipient: &Recipient,
        key: &RecoveryKey,
        random: Ephemeral,
    ) -> Result<(), EncryptError> {
        self.recovery_key = Some(age::encrypt(recipient, key.expose().as_bytes(), random)?);
        self.recipient = Some(recipient.clone());
        Ok(())
    }

    /// The file's content.
    ///
    /// # Errors
    /// None in practice: every part can be written as JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use crate::token::{Objects, Phase};
    use pcr_measure::policy;
    use serde_json::{Value, json};

    const IDENTITY: &str =
        "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";

    fn manifest() -> Manifest {
        Manifest::builder("image", "rpi3")
            .event(0, "U-Boot version", b"v".as_slice(), "")
            .event(8, "kernel", b"k".as_slice(), "")
            .seal(&[0, 8, 15])
            .build()
            .unwrap()
    }

    fn token() -> Token {
        let reference = manifest().reference();
        let policy = policy::pcr_digest(reference.seal(), &reference.sealed_values()).unwrap();
        let objects = Objects {
            nv_index: 0x0180_6d73,
            srk: 0x8100_0001,
            srk_name: vec![0, 0x0b, 1],
            pcrs: *reference.seal(),
        };
        Token::new(Phase::Encrypting, objects, policy, reference)
    }

    fn record(ek: Option<EndorsementKey>, ak: Option<Key>) -> DeviceRecord {
        let device = Board { model: Some("Pi".into()), serial: None };
        let created = Created::at(Some("b".into()), SystemTime::UNIX_EPOCH);
        DeviceRecord::new(
            created,
            &manifest(),
            device,
            TpmRecord::new(&token(), ek, ak),
            "u".into(),
        )
    }

    fn json_of(record: &DeviceRecord) -> Value {
        serde_json::from_slice(&record.to_json().unwrap()).unwrap()
    }

    #[test]
    fn the_record_says_what_is_known_and_leaves_out_what_is_not() {
        let token = token();
        let want = json!({
            "schema": "msec-boot/device-record/1",
            "created": {"boot_id": "b"},
            "image": "image",
            "board": "rpi3",
            "device": {"model": "Pi", "serial": null},
            "tpm": {
                "srk": {"handle": "0x81000001", "name": hex::encode(&token.srk_name)},
                "nv_index": "0x01806d73",
                "policy": token.policy.to_string(),
                "pcrs": [0, 8, 15],
            },
            "luks": {"uuid": "u"},
        });
        assert_eq!(json_of(&record(None, None)), want);
        let key = |n| Key { name: vec![0, 0x0b, n], public: vec![n] };
        let ek = |certificate| Some(EndorsementKey { key: key(1), certificate });
        let tpm = json_of(&record(ek(None), Some(key(2))))["tpm"].take();
        assert_eq!(tpm["ek"], json!({"template": "L-2", "name": "000b01", "public": "01"}));
        assert_eq!(tpm["ak"], json!({"handle": "0x81010002", "name": "000b02", "public": "02"}));
        let tpm = json_of(&record(ek(Some(vec![0x30, 0])), None))["tpm"].take();
        assert_eq!(tpm["ek"]["certificate"], "3000");
    }

    #[test]
    fn the_recovery_key_is_in_it_encrypted_alone() {
        let identity: ::age::x25519::Identity = IDENTITY.parse().unwrap();
        let recipient = Recipient::parse(&identity.to_public().to_string()).unwrap();
        let draw = |n| Secret::from_slice(&[n; 32]).unwrap();
        let key = RecoveryKey::from_secret(&draw(3));
        let mut record = record(None, None);
        record.escrow(&recipient, &key, Ephemeral { share: draw(4), file: draw(5) }).unwrap();
        let text = String::from_utf8(record.to_json().unwrap()).unwrap();
        for group in key.expose().split('-') {
            assert!(!text.contains(group), "{text}");
        }
        let json = json_of(&record);
        assert_eq!(json["recipient"], identity.to_public().to_string());
        let file = json["recovery_key"].as_str().unwrap();
        let plain = ::age::decrypt(&identity, file.as_bytes()).unwrap();
        assert_eq!(plain, key.expose().as_bytes());
    }

    #[test]
    fn a_clock_that_is_not_set_is_not_believed() {
        let at = |seconds| {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            Created::at(None, now).unix_time
        };
        assert_eq!(at(0), None);
        assert_eq!(at(CLOCK_IS_SET.as_secs() - 1), None);
        assert_eq!(at(CLOCK_IS_SET.as_secs() + 5), Some(1_767_225_605));
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(Created::at(None, before).unix_time, None);
    }
}
