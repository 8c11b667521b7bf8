//! What binds the attestation key to the TPM whose maker certified its endorsement key.

use tss_esapi::constants::SessionType;
use tss_esapi::handles::{AuthHandle, KeyHandle, SessionHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Data, Digest, EncryptedSecret, IdObject, Nonce, SignatureScheme, SymmetricDefinition,
};
use tss_esapi::traits::Marshall;

use super::quote::marshal;
use super::{Primary, Tpm, TpmError};

/// A TPM's statement about one of its objects.
#[derive(Debug, Clone)]
pub struct Certified {
    /// `TPMS_ATTEST`, as the TPM signed it.
    pub message: Vec<u8>,
    /// `TPMT_SIGNATURE` over it.
    pub signature: Vec<u8>,
}

impl Tpm {
    /// Has the key at persistent handle `ak` certify itself (TPM 2.0 Library 1.59, Part 3,
    /// 18.2), with `nonce` signed along: whoever has this can use the key, now.
    ///
    /// # Errors
    /// [`TpmError::NoKey`]; the TPM's.
    pub fn certify_itself(&mut self, ak: u32, nonce: &[u8]) -> Result<Certified, TpmError> {
        let key = self.persistent(ak)?.ok_or(TpmError::NoKey(ak))?;
        let nonce = Data::try_from(nonce.to_vec())?;
        let passwords = (Some(AuthSession::Password), Some(AuthSession::Password), None);
        let (attest, signature) = self.run(|c| {
            c.execute_with_sessions(passwords, |c| {
                c.certify(key.into(), key, nonce, SignatureScheme::Null)
            })
        })?;
        Ok(Certified { message: attest.marshall()?, signature: marshal(&signature)?.1 })
    }

    /// Opens a credential that was made for the endorsement key ([`Primary::Endorsement`]) and
    /// for the Name of the key at persistent handle `ak` (Part 3, 12.5). `id_object` and `secret`
    /// are the insides of `TPM2B_ID_OBJECT` and `TPM2B_ENCRYPTED_SECRET`.
    ///
    /// # Errors
    /// [`TpmError::NoKey`]; the TPM's, where the credential is for another TPM or key.
    pub fn activate_credential(
        &mut self,
        ak: u32,
        id_object: &[u8],
        secret: &[u8],
    ) -> Result<Vec<u8>, TpmError> {
        let key = self.persistent(ak)?.ok_or(TpmError::NoKey(ak))?;
        let blob = IdObject::try_from(id_object.to_vec())?;
        let secret = EncryptedSecret::try_from(secret.to_vec())?;
        let (endorsement, _) = self.make(Primary::Endorsement)?;
        let opened = self.activate(key, endorsement, blob, secret);
        self.run(|c| c.flush_context(endorsement.into()))?;
        Ok(opened?.as_bytes().to_vec())
    }

    fn activate(
        &mut self,
        key: KeyHandle,
        endorsement: KeyHandle,
        blob: IdObject,
        secret: EncryptedSecret,
    ) -> Result<Digest, TpmError> {
        let session = self.run(|c| {
            c.start_auth_session(
                None,
                None,
                None,
                SessionType::Policy,
                SymmetricDefinition::Null,
                HashingAlgorithm::Sha256,
            )
        })?;
        let session = session.ok_or_else(|| TpmError::Library("no session".to_owned()))?;
        let opened = self.allow(session).and_then(|()| {
            let sessions = (Some(AuthSession::Password), Some(session), None);
            self.run(|c| {
                c.execute_with_sessions(sessions, |c| {
                    c.activate_credential(key, endorsement, blob, secret)
                })
            })
        });
        self.run(|c| c.flush_context(SessionHandle::from(session).into()))?;
        opened
    }

    /// Fulfils the endorsement key's policy: whoever may use the endorsement hierarchy (TCG EK
    /// Credential Profile 2.5, B.3.3, "PolicyA").
    fn allow(&mut self, session: AuthSession) -> Result<(), TpmError> {
        let policy = PolicySession::try_from(session)?;
        self.run(|c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                c.policy_secret(
                    policy,
                    AuthHandle::Endorsement,
                    Nonce::default(),
                    Digest::default(),
                    Nonce::default(),
                    None,
                )
            })
        })?;
        Ok(())
    }
}
