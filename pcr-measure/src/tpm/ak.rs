//! The attestation key.

use tss_esapi::attributes::ObjectAttributes;
use tss_esapi::handles::PersistentTpmHandle;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::data_handles::Persistent;
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::reserved_handles::{Hierarchy, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    EccPoint, EccScheme, HashScheme, KeyDerivationFunctionScheme, Public, PublicEccParameters,
    SymmetricDefinitionObject,
};
use tss_esapi::traits::Marshall;

use super::{Tpm, TpmError};

impl Tpm {
    /// Makes an attestation key (ECC P-256, ECDSA with SHA-256, restricted, of
    /// this TPM, outside dictionary attack protection) in the endorsement
    /// hierarchy and keeps it at persistent handle `handle`. Safe to repeat: an
    /// attestation key that is there is kept. Gives its `TPMT_PUBLIC`.
    ///
    /// # Errors
    /// [`TpmError::ForeignKey`] when the handle holds another kind of key; the
    /// TPM's when a hierarchy has a password.
    pub fn ensure_ak(&mut self, handle: u32) -> Result<Vec<u8>, TpmError> {
        if self.persistent(handle)?.is_none() {
            self.create_ak(handle)?;
        }
        self.ak_public(handle)
    }

    /// The public area (`TPMT_PUBLIC`) of the attestation key at `handle`.
    ///
    /// # Errors
    /// [`TpmError::NoKey`], [`TpmError::ForeignKey`].
    pub fn ak_public(&mut self, handle: u32) -> Result<Vec<u8>, TpmError> {
        let key = self.persistent(handle)?.ok_or(TpmError::NoKey(handle))?;
        let (public, _, _) = self.run(|c| c.execute_without_session(|c| c.read_public(key)))?;
        let is_ak = is_restricted_signing_key(&public);
        if is_ak { Ok(public.marshall()?) } else { Err(TpmError::ForeignKey(handle)) }
    }

    fn create_ak(&mut self, handle: u32) -> Result<(), TpmError> {
        let place = PersistentTpmHandle::new(handle)?;
        let template = template()?;
        let made = self.run(|c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                c.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
            })
        })?;
        let kept = self.run(|c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                let place = Persistent::Persistent(place);
                c.evict_control(Provision::Owner, made.key_handle.into(), place)
            })
        });
        self.run(|c| c.flush_context(made.key_handle.into()))?;
        kept.map(drop)
    }
}

fn template() -> Result<Public, TpmError> {
    let attributes = ObjectAttributes::builder()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
        .with_restricted(true)
        .with_sign_encrypt(true)
        .build()?;
    let parameters = PublicEccParameters::builder()
        .with_symmetric(SymmetricDefinitionObject::Null)
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_restricted(true)
        .with_is_signing_key(true)
        .with_is_decryption_key(false)
        .build()?;
    let public = Public::builder()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()?;
    Ok(public)
}

/// Restricted: it signs nothing but what the TPM made itself, so that a quote
/// under it cannot be forged by asking the TPM to sign one.
fn is_restricted_signing_key(public: &Public) -> bool {
    let a = public.object_attributes();
    a.restricted() && a.sign_encrypt() && a.fixed_tpm() && a.fixed_parent() && !a.decrypt()
}
