//! The endorsement key.

use tss_esapi::attributes::ObjectAttributes;
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::reserved_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{
    Digest, EccParameter, EccPoint, EccScheme, KeyDerivationFunctionScheme, Public,
    PublicEccParameters, SymmetricDefinitionObject,
};
use tss_esapi::traits::Marshall;

use super::{Tpm, TpmError};

/// PolicySecret with the endorsement hierarchy (TCG EK Credential Profile 2.5,
/// B.3.3, "PolicyA" for SHA-256).
const POLICY_A: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24,
    0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
/// Bytes of a coordinate in the template; all zero.
const COORDINATE: usize = 32;

impl Tpm {
    /// The public area (`TPMT_PUBLIC`) of the endorsement key of template L-2, ECC
    /// P-256 with SHA-256 (TCG EK Credential Profile 2.5, B.3.4). A template and
    /// the TPM's seed give the same key every time, the one that the maker's
    /// certificate is for, if there is one. It is made and flushed again.
    ///
    /// Nothing proves here that it is a real TPM's: that takes the certificate, and
    /// a credential that the key decrypts.
    ///
    /// # Errors
    /// The TPM's, for instance when the endorsement hierarchy has a password.
    pub fn ek_public(&mut self) -> Result<Vec<u8>, TpmError> {
        let template = template()?;
        let made = self.run(|c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                c.create_primary(Hierarchy::Endorsement, template, None, None, None, None)
            })
        })?;
        let public = made.out_public.marshall();
        self.run(|c| c.flush_context(made.key_handle.into()))?;
        Ok(public?)
    }
}

fn template() -> Result<Public, TpmError> {
    let attributes = ObjectAttributes::builder()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_admin_with_policy(true)
        .with_restricted(true)
        .with_decrypt(true)
        .build()?;
    let parameters = PublicEccParameters::builder()
        .with_symmetric(SymmetricDefinitionObject::AES_128_CFB)
        .with_ecc_scheme(EccScheme::Null)
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
        .with_restricted(true)
        .with_is_signing_key(false)
        .with_is_decryption_key(true)
        .build()?;
    let zero = || EccParameter::try_from(vec![0; COORDINATE]);
    let public = Public::builder()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_auth_policy(Digest::try_from(POLICY_A.to_vec())?)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::new(zero()?, zero()?))
        .build()?;
    Ok(public)
}
