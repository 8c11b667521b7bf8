//! Our LUKS2 token: what the key slot is bound to, and what was measured when
//! it was sealed.
//!
//! The token lies on the card in clear and unauthenticated. Nothing it says
//! may open anything: a wrong SRK Name, index or policy in it only makes the
//! TPM refuse. It decides what an operator reads on the console, and that
//! text is advice.

use crate::authority::{Approvals, Authority};
use crate::config::{Config, handle, write_handle};
use crate::guard::{BranchCount, Guard};
use pcr_measure::digest::Sha256Digest;
use pcr_measure::manifest::Reference;
use pcr_measure::pcr::{PcrBank, PcrSelection};
use pcr_measure::policy::{self, PolicyError};
use serde::{Deserialize, Serialize};

/// The `type` of the token.
pub const TYPE: &str = "msec-boot";
/// Key slot of the recovery key of a root that was encrypted in place.
pub const RECOVERY_SLOT: u32 = 0;
/// Key slot of the secret that the TPM keeps.
pub const TPM_SLOT: u32 = 1;
/// The same, for the index that resealing alternates with.
pub const SPARE_SLOT: u32 = 2;

/// Where a secret lies, and the key slot that it opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Handle of the NV index.
    pub nv_index: u32,
    /// Number of the key slot.
    pub slot: u32,
}

impl Place {
    /// The two places that resealing alternates between, from the configuration's
    /// two indices.
    #[must_use]
    pub const fn both(indices: [u32; 2]) -> [Self; 2] {
        let [nv_index, spare] = indices;
        [Self { nv_index, slot: TPM_SLOT }, Self { nv_index: spare, slot: SPARE_SLOT }]
    }
}

/// How far provisioning came when the token was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The root is being encrypted, or has no recovery key yet.
    Encrypting,
    /// Provisioning is complete.
    Sealed,
}

/// What the TPM checks before it gives the secret out.
///
/// In JSON `"pcr"`, or `{"signed":{"key_name":"<hex>","counter":"0x01806d74"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Binding {
    /// PolicyPCR: exactly this boot.
    Pcr,
    /// PolicyAuthorize: any boot that the vendor signed.
    Signed {
        /// Name of the vendor's key, in hex.
        #[serde(with = "hex::serde")]
        key_name: Vec<u8>,
        /// Handle of the rollback counter.
        #[serde(deserialize_with = "handle", serialize_with = "write_handle")]
        counter: u32,
    },
}

impl Binding {
    /// The binding that a configuration asks for.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self::by(config.signed.as_ref())
    }

    /// The binding to whoever approves a boot: nobody, or the vendor.
    #[must_use]
    pub fn by(authority: Option<&Authority>) -> Self {
        authority.map_or(Self::Pcr, |authority| Self::Signed {
            key_name: authority.policy_key.name().to_vec(),
            counter: authority.counter,
        })
    }
}

/// The token's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    #[serde(rename = "type")]
    kind: String,
    keyslots: Vec<String>,
    version: u32,
    /// How far provisioning came.
    pub phase: Phase,
    /// What the secret is bound to.
    pub binding: Binding,
    /// Handle of the NV index with the secret.
    #[serde(deserialize_with = "handle", serialize_with = "write_handle")]
    pub nv_index: u32,
    /// Persistent handle of the storage root key.
    #[serde(deserialize_with = "handle", serialize_with = "write_handle")]
    pub srk: u32,
    /// Name of the storage root key when the root was sealed, in hex.
    #[serde(with = "hex::serde")]
    pub srk_name: Vec<u8>,
    /// PCRs of the policy.
    pub pcrs: PcrSelection,
    /// The policy digest.
    pub policy: Sha256Digest,
    /// Key slot of the recovery key; another than 0 where somebody's passphrase was
    /// there before.
    #[serde(default, skip_serializing_if = "is_first")]
    pub recovery_slot: u32,
    /// Whether the TPM wants a PIN too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pin: bool,
    /// For the binding `signed`: what the TPM has verified already.
    #[serde(default, skip_serializing_if = "Approvals::is_empty")]
    pub approved: Approvals,
    /// What was measured in the boot that was sealed against.
    pub reference: Reference,
    /// Further boots that the secret is released to: updates that were staged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<Reference>,
    /// The next boot that the TPM unlocks is to be the only one from then on. A
    /// request that anyone can write: it leaves a boot that the TPM knows already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retire: bool,
}

/// Serde's way of asking whether a field is to be left out.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_first(slot: &u32) -> bool {
    *slot == RECOVERY_SLOT
}

/// A token that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There is none, or there are several.
    #[error("the LUKS2 header has {0} tokens of type {TYPE}, expected one")]
    Count(usize),
    /// It is not of this version.
    #[error("the LUKS2 token is not of this version: {0}")]
    Syntax(#[from] serde_json::Error),
}

/// A token whose guard cannot be computed.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// A policy.
    #[error("no policy for these PCRs: {0}")]
    Policy(#[from] PolicyError),
    /// Too many boots.
    #[error(transparent)]
    Count(#[from] BranchCount),
}

impl Token {
    /// A token of the current version for the TPM's key slot.
    #[must_use]
    pub fn new(phase: Phase, objects: Objects, policy: Sha256Digest, reference: Reference) -> Self {
        Self {
            kind: TYPE.to_string(),
            keyslots: vec![TPM_SLOT.to_string()],
            version: 1,
            phase,
            binding: Binding::Pcr,
            nv_index: objects.nv_index,
            srk: objects.srk,
            srk_name: objects.srk_name,
            pcrs: objects.pcrs,
            policy,
            recovery_slot: RECOVERY_SLOT,
            pin: false,
            approved: Approvals::default(),
            reference,
            pending: Vec::new(),
            retire: false,
        }
    }

    /// The place that the token names, if it is one of the two.
    #[must_use]
    pub fn place(&self, indices: [u32; 2]) -> Option<Place> {
        Place::both(indices).into_iter().find(|place| place.nv_index == self.nv_index)
    }

    /// The same token for another place.
    #[must_use]
    pub fn at(self, place: Place) -> Self {
        Self { nv_index: place.nv_index, keyslots: vec![place.slot.to_string()], ..self }
    }

    /// Every boot that the secret is released to, for the binding `pcr`.
    pub fn boots(&self) -> impl Iterator<Item = &Reference> {
        std::iter::once(&self.reference).chain(&self.pending)
    }

    /// Of those the one that leads to these values.
    ///
    /// # Errors
    /// A selected PCR has no value.
    pub fn boot_with(
        &self,
        pcrs: &PcrSelection,
        values: &PcrBank,
    ) -> Result<Option<&Reference>, PolicyError> {
        let wanted = policy::pcr_digest(pcrs, values)?;
        Ok(self.boots().find(|boot| {
            let digest = policy::pcr_digest(boot.seal(), &boot.sealed_values());
            digest.is_ok_and(|digest| digest == wanted)
        }))
    }

    /// What guards the index, as far as token and configuration say; the TPM has
    /// the last word.
    ///
    /// # Errors
    /// A policy that cannot be computed, or too many boots.
    pub fn guard(&self, signed: Option<&Authority>) -> Result<Guard, GuardError> {
        let guard = match signed {
            Some(authority) => authority.guard()?,
            None => {
                let of = |boot: &Reference| policy::pcr_digest(boot.seal(), &boot.sealed_values());
                Guard::any(self.boots().map(of).collect::<Result<Vec<_>, _>>()?)?
            }
        };
        Ok(guard.with_pin(self.pin))
    }

    /// The same token with another binding than `pcr`.
    #[must_use]
    pub fn bound(self, binding: Binding) -> Self {
        Self { binding, ..self }
    }

    /// Finds the token in LUKS2 metadata; gives its number and its content.
    ///
    /// # Errors
    /// [`TokenError`] when there is not exactly one, or it is of another form.
    pub fn find(metadata: &serde_json::Value) -> Result<(u32, Self), TokenError> {
        let all = metadata.get("tokens").and_then(serde_json::Value::as_object);
        let is_ours = |token: &serde_json::Value| token.get("type").is_some_and(|t| t == TYPE);
        let ours: Vec<_> = all.into_iter().flatten().filter(|(_, token)| is_ours(token)).collect();
        let [(number, token)] = ours.as_slice() else {
            return Err(TokenError::Count(ours.len()));
        };
        let parsed = Self::deserialize(*token)?;
        let number = number.parse().map_err(|_| TokenError::Count(0))?;
        Ok((number, parsed))
    }
}

/// The TPM objects that a token names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Objects {
    /// Handle of the NV index with the secret.
    pub nv_index: u32,
    /// Persistent handle of the storage root key.
    pub srk: u32,
    /// Name of the storage root key (TPM 2.0 Library part 1, 16).
    pub srk_name: Vec<u8>,
    /// PCRs of the policy.
    pub pcrs: PcrSelection,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::authority::Approved;
    use pcr_measure::manifest::Manifest;
    use serde_json::json;

    /// A token of a root that is sealed to one boot.
    pub(crate) fn sample() -> Token {
        let manifest = Manifest::builder("a", "b").event(0, "x", b"x".as_slice(), "");
        let reference = manifest.seal(&[0, 15]).build().unwrap().reference();
        let pcrs = PcrSelection::sha256(&[0, 15]).unwrap();
        let objects = Objects { nv_index: 0x0180_6d73, srk: 0x8100_0001, srk_name: vec![], pcrs };
        Token::new(Phase::Sealed, objects, Sha256Digest::ZERO, reference)
    }

    #[test]
    fn a_token_reads_back_and_says_only_what_there_is() {
        let plain = sample();
        let json = serde_json::to_value(&plain).unwrap();
        for absent in ["pin", "pending", "retire", "recovery_slot", "approved"] {
            assert!(json.get(absent).is_none(), "{absent}");
        }
        let [first, spare] = Place::both([plain.nv_index, 7]);
        let mut full = plain.clone().at(spare);
        full.pin = true;
        full.retire = true;
        full.recovery_slot = 3;
        full.approved.keep(Approved { policy: Sha256Digest::ZERO, ticket: vec![1, 2] });
        full.pending = vec![plain.reference.clone()];
        for (token, place) in [(&plain, first), (&full, spare)] {
            let json = serde_json::to_value(token).unwrap();
            assert_eq!(json["keyslots"], json!([place.slot.to_string()]));
            assert_eq!(&serde_json::from_value::<Token>(json).unwrap(), token);
            assert_eq!(token.place([plain.nv_index, 7]), Some(place));
        }
        assert_eq!(plain.place([8, 9]), None);
    }

    #[test]
    fn bindings_are_written_as_they_are_documented() {
        let signed = Binding::Signed { key_name: vec![0, 0x0b, 1], counter: 0x0180_6d74 };
        let cases = [
            (Binding::Pcr, json!("pcr")),
            (signed, json!({"signed": {"key_name": "000b01", "counter": "0x01806d74"}})),
        ];
        for (binding, want) in cases {
            assert_eq!(serde_json::to_value(&binding).unwrap(), want);
            assert_eq!(serde_json::from_value::<Binding>(want).unwrap(), binding);
        }
        for bad in [json!("signed"), json!({"signed": {"key_name": "00"}}), json!("none")] {
            assert!(serde_json::from_value::<Binding>(bad.clone()).is_err(), "{bad}");
        }
    }
}
