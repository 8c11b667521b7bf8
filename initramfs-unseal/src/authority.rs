//! The binding `signed`: the secret is released to every boot whose policy the
//! vendor's key signed, as long as a counter in the TPM has not passed the
//! version of the image.
//!
//! Key, counter and version stand in the configuration, which is measured. The
//! signatures lie on the boot partition and are foreign: what is chosen here is
//! a claim until the TPM has verified it ([`crate::tpm`]).

mod approved;

pub use approved::{Approvals, Approved};

use crate::config::{handle, write_handle};
use crate::guard::Guard;
use crate::tpm::TpmError;
use crate::volume::LATCH;
use pcr_measure::digest::{Algorithm, Sha256Digest};
use pcr_measure::pcr::{PcrBank, PcrSelection};
use pcr_measure::policy::{Policy, PolicyError, Rollback};
use pcr_measure::signed_policy::{
    MAX_JSON, NoEntry, SignatureFile, SignedPolicy, SignedPolicyError, policy_with,
};
use pcr_measure::structures::{EccCurve, PublicParameters, TpmPublic};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The file of signed policies on the boot partition, systemd's name for it.
pub const FILE: &str = "tpm2-pcr-signature.json";
/// Largest file that is read, in bytes.
pub const MAX_FILE: u64 = MAX_JSON as u64;

/// Bytes of an RSA-2048 modulus: what every TPM loads (PC Client Platform TPM
/// Profile 1.05, 4.5).
const RSA_2048: usize = 256;

/// Why the binding did not release the secret.
#[derive(Debug, thiserror::Error)]
pub enum SignedError {
    /// No file.
    #[error(
        "the boot partition has no signed policies, {FILE} ({0}): copy there the file that came with this image"
    )]
    NoFile(String),
    /// A file that is none.
    #[error("{FILE} on the boot partition cannot be used: {0}")]
    BadFile(SignedPolicyError),
    /// Nobody signed this boot.
    #[error(
        "no policy of this boot is signed: {0}; put the {FILE} of this image on the boot partition"
    )]
    NoEntry(NoEntry),
    /// The TPM does not take the signature.
    #[error("the TPM refuses the signature of this boot's policy: {FILE} was changed")]
    BadSignature,
    /// Rollback.
    #[error(
        "this image is older than this board allows: its version is {version}, the TPM's rollback counter stands at {value}; boot an image of version {value} or later"
    )]
    CounterAhead {
        /// The image's version.
        version: u64,
        /// Where the counter stands.
        value: u64,
    },
    /// Rollback, at provisioning.
    #[error(
        "the TPM's rollback counter begins at {value}, above this image's version {version} (it never goes below what any counter of this TPM once had): set rollback = {value} or more in the recipe, then build and sign the image again"
    )]
    BornAhead {
        /// The image's version.
        version: u64,
        /// Where the counter stands.
        value: u64,
    },
    /// No counter.
    #[error(
        "the TPM has no rollback counter at {0:#010x}: it was removed or the TPM was cleared; make it again from a trusted system (initramfs-unseal rollback)"
    )]
    CounterMissing(u32),
    /// Something else at its handle.
    #[error(
        "the NV index at {0:#010x} is no rollback counter: free it (tpm2_nvundefine) or choose another in the recipe"
    )]
    ForeignCounter(u32),
    /// Sealed otherwise.
    #[error(
        "the secret is bound to another policy key, or to one boot alone: this image was not made for this root"
    )]
    OtherAuthority,
    /// No policy can be computed.
    #[error("no policy for these PCRs: {0}")]
    Policy(#[from] PolicyError),
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
}

impl SignedError {
    /// Whether it is a refusal, and not something that could not be done.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::NoEntry(_)
                | Self::BadSignature
                | Self::CounterAhead { .. }
                | Self::BornAhead { .. }
                | Self::OtherAuthority
        )
    }
}

/// Who may approve a boot, and which version this image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// The vendor's public key.
    pub policy_key: PolicyKey,
    /// Handle of the rollback counter's NV index.
    #[serde(deserialize_with = "handle", serialize_with = "write_handle")]
    pub counter: u32,
    /// Version of this image: it opens nothing once the counter is above.
    #[serde(rename = "rollback")]
    pub version: u64,
}

impl Authority {
    /// The condition on the counter.
    #[must_use]
    pub const fn rollback(&self) -> Rollback {
        Rollback { counter: self.counter, version: self.version }
    }

    /// The policy that guards the secret: PolicyAuthorize by the key, with an
    /// empty policyRef, and PolicyPCR over the latch while it is open. The latter
    /// is the index' own: a policy that the vendor signed without PCR 15 opens
    /// nothing behind the latch.
    ///
    /// # Errors
    /// None in practice: the Name is one, and so is the PCR.
    pub fn policy(&self) -> Result<Sha256Digest, PolicyError> {
        let latch = PcrSelection::sha256(&[LATCH.into()])?;
        let open: PcrBank = latch.iter().map(|pcr| (pcr, Sha256Digest::ZERO)).collect();
        let policy = Policy::new(Algorithm::Sha256)
            .authorize(&self.policy_key.name, b"")?
            .pcr(&[(latch, &open)])?;
        let (want, got) = (Algorithm::Sha256, policy.digest().algorithm());
        policy.digest().as_sha256().ok_or(PolicyError::OtherAlgorithm { want, got })
    }

    /// The same as a guard.
    ///
    /// # Errors
    /// None in practice: the Name is one.
    pub fn guard(&self) -> Result<Guard, PolicyError> {
        self.policy().map(Guard::one)
    }

    /// The entry for a boot whose PCRs hold `values`, of whichever signature file has
    /// it. Unverified: the TPM checks the signature.
    ///
    /// # Errors
    /// [`SignedError::BadFile`], [`SignedError::NoEntry`]; of several files that of the
    /// last one.
    pub fn choose(
        &self,
        files: &[Vec<u8>],
        pcrs: &PcrSelection,
        values: &PcrBank,
    ) -> Result<SignedPolicy, SignedError> {
        let policy = self.policy_of(pcrs, values)?;
        let mut why = SignedError::NoFile("none is there".into());
        for file in files {
            let found = SignatureFile::from_json(file).map_err(SignedError::BadFile);
            let found = found.and_then(|file| {
                let found = file.find(self.policy_key.fingerprint, pcrs, policy);
                found.cloned().map_err(SignedError::NoEntry)
            });
            match found {
                Ok(entry) => return Ok(entry),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// The policy that has to be signed for a boot of this image whose PCRs hold `values`.
    ///
    /// # Errors
    /// A PCR without a value.
    pub fn policy_of(
        &self,
        pcrs: &PcrSelection,
        values: &PcrBank,
    ) -> Result<Sha256Digest, PolicyError> {
        policy_with(pcrs, values, Some(&self.rollback()))
    }

    /// The entry of another image's signature file, for a boot of it whose PCRs hold
    /// `values`, with that image's version. Unverified.
    ///
    /// # Errors
    /// Why there is none.
    pub fn choose_next(
        &self,
        file: &SignatureFile,
        pcrs: &PcrSelection,
        values: &PcrBank,
    ) -> Result<(SignedPolicy, u64), NoEntry> {
        let of_version = |version| {
            let policy = Self { version, ..self.clone() }.policy_of(pcrs, values).ok()?;
            let found = file.find(self.policy_key.fingerprint, pcrs, policy).ok()?;
            Some((found.clone(), version))
        };
        let mut versions: Vec<u64> = file.entries().filter_map(|entry| entry.rollback).collect();
        versions.sort_unstable();
        versions.dedup();
        versions.into_iter().rev().find_map(of_version).ok_or_else(|| {
            // The reason is the same for every version.
            let no_policy = Sha256Digest::ZERO;
            file.find(self.policy_key.fingerprint, pcrs, no_policy)
                .err()
                .unwrap_or(NoEntry::OtherPolicy)
        })
    }
}

/// A public key that a TPM loads: RSA of 2048 bits or ECC on P-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyKey {
    public: Vec<u8>,
    name: Vec<u8>,
    fingerprint: Sha256Digest,
    is_rsa: bool,
}

impl PolicyKey {
    /// Reads a `TPMT_PUBLIC`; `None` if it is none of a key that is taken.
    #[must_use]
    pub fn parse(public: &[u8]) -> Option<Self> {
        let parsed = TpmPublic::parse(public).ok()?;
        let is_rsa = match parsed.parameters {
            PublicParameters::Rsa { modulus, .. } if modulus.len() == RSA_2048 => true,
            PublicParameters::Ecc { curve: EccCurve::P256, .. } => false,
            _ => return None,
        };
        let (name, fingerprint) = (parsed.name().ok()?, parsed.fingerprint());
        Some(Self { public: public.to_vec(), name, fingerprint, is_rsa })
    }

    /// The `TPMT_PUBLIC`.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The Name that the key has in a TPM.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// Whether it is an RSA key; else it is one on P-256.
    #[must_use]
    pub const fn is_rsa(&self) -> bool {
        self.is_rsa
    }
}

impl Serialize for PolicyKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        hex::serde::serialize(&self.public, serializer)
    }
}

impl<'de> Deserialize<'de> for PolicyKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bad = "policy_key must be the TPMT_PUBLIC of an RSA-2048 or ECC P-256 key, in hex";
        let key = hex::decode(text).ok().and_then(|public| Self::parse(&public));
        key.ok_or_else(|| serde::de::Error::custom(bad))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pcr_measure::key::SigningKey;
    use pcr_measure::pcr::PcrIndex;
    use serde_json::{Value, json};

    /// The public area of an ECC P-256 key that signs.
    pub(crate) fn area() -> Vec<u8> {
        let head = "0023000b00060040000000100010000300100020";
        let (x, y) = ("11".repeat(32), "22".repeat(32));
        hex::decode(format!("{head}{x}0020{y}")).unwrap()
    }

    pub(crate) fn sample() -> Value {
        json!({ "policy_key": hex::encode(area()), "counter": "0x01806d74", "rollback": 3 })
    }

    fn key(options: [&str; 4]) -> SigningKey {
        let made = std::process::Command::new("openssl").arg("genpkey").args(options).output();
        SigningKey::from_pem(&made.unwrap().stdout).unwrap()
    }

    #[test]
    fn a_configuration_reads_back() {
        let authority: Authority = serde_json::from_value(sample()).unwrap();
        assert_eq!((authority.counter, authority.version), (0x0180_6d74, 3));
        assert!(!authority.policy_key.is_rsa());
        assert_eq!(serde_json::to_value(&authority).unwrap(), sample());
    }

    #[test]
    fn keys_that_not_every_tpm_loads_are_refused() {
        let rsa = |bits| ["-algorithm", "RSA", "-pkeyopt", bits];
        let area = |key: SigningKey| key.public().to_tpm_public().unwrap();
        assert!(PolicyKey::parse(&area(key(rsa("rsa_keygen_bits:2048")))).unwrap().is_rsa());
        assert!(PolicyKey::parse(&area(key(rsa("rsa_keygen_bits:3072")))).is_none());
        let good = super::tests::area();
        assert!(PolicyKey::parse(&good).is_some());
        for cut in 0..good.len() {
            assert!(PolicyKey::parse(&good[..cut]).is_none(), "{cut}");
        }
    }

    #[test]
    fn the_entry_for_this_boot_and_version_is_chosen_and_no_other() {
        let key = key(["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        let policy_key = PolicyKey::parse(&key.public().to_tpm_public().unwrap()).unwrap();
        let authority =
            |version| Authority { policy_key: policy_key.clone(), counter: 0x0180_6d74, version };
        let pcrs = PcrSelection::sha256(&[0, 15]).unwrap();
        let values = |image: &[u8]| -> PcrBank {
            [(0, Sha256Digest::of(image)), (15, Sha256Digest::ZERO)]
                .map(|(pcr, value)| (PcrIndex::new(pcr).unwrap(), value))
                .into_iter()
                .collect()
        };
        let mut file = SignatureFile::new();
        for (image, version) in [(b"a", 1), (b"b", 2)] {
            let rollback = authority(version).rollback();
            file.sign_with(&key, &pcrs, &values(image), Some(&rollback)).unwrap();
        }
        // Without a counter: systemd's, and none of ours.
        file.sign(&key, &pcrs, &values(b"c")).unwrap();
        let file = file.to_json().unwrap();
        let files = [file.into_bytes()];
        let choose = |image, version| {
            authority(version).choose(&files, &pcrs, &values(image)).map(|e| e.rollback)
        };
        assert_eq!(choose(b"a", 1).unwrap(), Some(1));
        assert_eq!(choose(b"b", 2).unwrap(), Some(2));
        for (image, version) in [(b"a", 2), (b"b", 1), (b"c", 1), (b"d", 1)] {
            let refusal = choose(image, version).unwrap_err();
            assert!(
                matches!(refusal, SignedError::NoEntry(NoEntry::OtherPolicy)),
                "{image:?} {version}: {refusal}"
            );
        }
        // The slot that was not booted may hold anything.
        let [file] = files;
        for other in [&b"{}"[..], b"", b"no JSON", &[0; 100]] {
            for files in [[file.clone(), other.to_vec()], [other.to_vec(), file.clone()]] {
                assert!(authority(1).choose(&files, &pcrs, &values(b"a")).is_ok());
            }
        }
        assert!(authority(1).choose(&[], &pcrs, &values(b"a")).is_err());
    }
}
