//! The primary keys that are made here: SHA-256, restricted, of this TPM; ECC P-256 but for
//! one. A template and the TPM's seed give the same key every time.

use tss_esapi::attributes::ObjectAttributes;
use tss_esapi::handles::{KeyHandle, PersistentTpmHandle};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::data_handles::Persistent;
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::interface_types::reserved_handles::{Hierarchy, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Digest, EccParameter, EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, Public,
    PublicEccParameters, PublicKeyRsa, PublicRsaParameters, RsaExponent, RsaScheme,
    SymmetricDefinitionObject,
};

use super::{Tpm, TpmError};

/// PolicySecret with the endorsement hierarchy (TCG EK Credential Profile 2.5,
/// B.3.3, "PolicyA" for SHA-256).
const POLICY_A: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
    0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
/// Bytes of a coordinate in the endorsement key's template; all zero.
const COORDINATE: usize = 32;

/// Which primary key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Primary {
    /// The storage root key, of the owner hierarchy (TCG TPM v2.0 Provisioning
    /// Guidance 1.0, 7.5.1). Outside dictionary attack protection, so that power
    /// cuts cannot lock a board out.
    StorageRoot,
    /// A key for quotes, of the endorsement hierarchy: ECDSA with SHA-256. Outside
    /// dictionary attack protection likewise.
    Attestation,
    /// The same with RSA of 2048 bits, RSASSA with SHA-256, for verifiers that take no other.
    AttestationRsa,
    /// The endorsement key of template L-2, the one that the maker's certificate
    /// is for, if there is one (TCG EK Credential Profile 2.5, B.3.4).
    Endorsement,
}

impl Primary {
    const fn hierarchy(self) -> Hierarchy {
        match self {
            Self::StorageRoot => Hierarchy::Owner,
            Self::Attestation | Self::AttestationRsa | Self::Endorsement => Hierarchy::Endorsement,
        }
    }

    fn template(self) -> Result<Public, TpmError> {
        let signs = matches!(self, Self::Attestation | Self::AttestationRsa);
        let endorsement = self == Self::Endorsement;
        let attributes = ObjectAttributes::builder()
            .with_fixed_tpm(true)
            .with_fixed_parent(true)
            .with_sensitive_data_origin(true)
            .with_user_with_auth(!endorsement)
            .with_admin_with_policy(endorsement)
            .with_no_da(!endorsement)
            .with_restricted(true)
            .with_decrypt(!signs)
            .with_sign_encrypt(signs)
            .build()?;
        if self == Self::AttestationRsa {
            let hash = HashScheme::new(HashingAlgorithm::Sha256);
            let parameters = PublicRsaParameters::builder()
                .with_scheme(RsaScheme::RsaSsa(hash))
                .with_key_bits(RsaKeyBits::Rsa2048)
                .with_exponent(RsaExponent::default())
                .with_symmetric(SymmetricDefinitionObject::Null)
                .with_restricted(true)
                .with_is_signing_key(true)
                .with_is_decryption_key(false)
                .build()?;
            return Ok(Public::builder()
                .with_public_algorithm(PublicAlgorithm::Rsa)
                .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
                .with_object_attributes(attributes)
                .with_rsa_parameters(parameters)
                .with_rsa_unique_identifier(PublicKeyRsa::default())
                .build()?);
        }
        let (symmetric, scheme) = if signs {
            let hash = HashScheme::new(HashingAlgorithm::Sha256);
            (SymmetricDefinitionObject::Null, EccScheme::EcDsa(hash))
        } else {
            (SymmetricDefinitionObject::AES_128_CFB, EccScheme::Null)
        };
        let parameters = PublicEccParameters::builder()
            .with_symmetric(symmetric)
            .with_ecc_scheme(scheme)
            .with_curve(EccCurve::NistP256)
            .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
            .with_restricted(true)
            .with_is_signing_key(signs)
            .with_is_decryption_key(!signs)
            .build()?;
        let (policy, unique) = if endorsement {
            let zero = || EccParameter::try_from(vec![0; COORDINATE]);
            (Digest::try_from(POLICY_A.to_vec())?, EccPoint::new(zero()?, zero()?))
        } else {
            (Digest::default(), EccPoint::default())
        };
        let public = Public::builder()
            .with_public_algorithm(PublicAlgorithm::Ecc)
            .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
            .with_object_attributes(attributes)
            .with_auth_policy(policy)
            .with_ecc_parameters(parameters)
            .with_ecc_unique_identifier(unique)
            .build()?;
        Ok(public)
    }
}

impl Tpm {
    /// Makes a primary key, as a transient object that the caller flushes. Its
    /// public area comes along.
    pub(super) fn make(&mut self, primary: Primary) -> Result<(KeyHandle, Public), TpmError> {
        let template = primary.template()?;
        let made = self.run(|c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                c.create_primary(primary.hierarchy(), template, None, None, None, None)
            })
        })?;
        Ok((made.key_handle, made.out_public))
    }

    /// Makes a primary key and keeps it at the free persistent handle `handle`.
    /// Cut anywhere, it is made again: the handle is taken last.
    ///
    /// # Errors
    /// The TPM's, for instance when a hierarchy has a password.
    pub fn keep(&mut self, primary: Primary, handle: u32) -> Result<(), TpmError> {
        let place = PersistentTpmHandle::new(handle)?;
        let (key, _) = self.make(primary)?;
        let kept = self.run(|c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                let place = Persistent::Persistent(place);
                c.evict_control(Provision::Owner, key.into(), place)
            })
        });
        self.run(|c| c.flush_context(key.into()))?;
        kept.map(drop)
    }
}
