//! Unsealing under PolicyAuthorize: the TPM verifies the signature of this
//! boot's policy, then the policy itself.

use super::counter::Counter;
use super::{Index, Tpm, TpmError, Unsealing, error};
use crate::authority::{Authority, PolicyKey, SignedError};
use crate::sealed::Sealed;
use pcr_measure::digest::Sha256Digest;
use pcr_measure::pcr::PcrSelection;
use pcr_measure::policy::{NvOperation, Rollback};
use pcr_measure::signed_policy::SignedPolicy;
use pcr_measure::structures::two_integers;
use tss_esapi::constants::SessionType;
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::reserved_handles::{Hierarchy, NvAuth};
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{
    Digest, EccParameter, EccSignature, Name, Nonce, Public, PublicKeyRsa, RsaSignature, Signature,
};
use tss_esapi::traits::UnMarshall;
use tss_esapi::tss2_esys::TPMT_TK_VERIFIED;

/// `TPM_RC_POLICY`: PolicyNV compared, and it does not hold (TPM 2.0 Library
/// 1.59, Part 2, 6.6.3).
const RC_POLICY: u32 = 0x126;
/// `TPM_RC_VALUE` about the first parameter: PolicyAuthorize, when the session's
/// digest is not the approved one (Part 3, 23.16).
const RC_NOT_APPROVED: u32 = 0x1c4;
/// Bits of a format-one code that is about the second parameter (6.6.2).
const SECOND_PARAMETER: u32 = 0x2c0;
/// All bits but those that say which error.
const ABOUT: u32 = !0x3f;

/// A policy that the TPM has verified the signature of.
#[derive(Debug)]
struct Approval {
    policy: Digest,
    key: Name,
    ticket: TPMT_TK_VERIFIED,
    counter: Counter,
    rollback: Rollback,
}

impl Tpm {
    /// Reads the secret as [`Tpm::unseal`] does, under the binding `signed`.
    /// `file` holds the signed policies.
    ///
    /// # Errors
    /// [`SignedError`] by what an operator can do about it.
    pub fn unseal_signed(
        &mut self,
        index: &Index,
        what: Unsealing<'_>,
        authority: &Authority,
        file: &[u8],
    ) -> Result<Sealed, SignedError> {
        if index.policy() != what.guard.policy()?.as_bytes() {
            return Err(SignedError::OtherAuthority);
        }
        let approval = self.approve(what.pcrs, authority, file)?;
        self.unseal_under(index, what, |tpm, policy| tpm.satisfy(policy, what.pcrs, &approval))
    }

    /// Runs the whole policy in a session that counts, and reads nothing: what
    /// a boot of this kind would be told.
    ///
    /// # Errors
    /// As [`Tpm::unseal_signed`].
    pub fn try_signed(
        &mut self,
        what: Unsealing<'_>,
        authority: &Authority,
        file: &[u8],
    ) -> Result<(), SignedError> {
        let approval = self.approve(what.pcrs, authority, file)?;
        let srk = self.pinned_srk(what.srk, what.srk_name)?;
        let session = self.session(srk, SessionType::Policy)?;
        let result = super::unseal::policy_session(session)
            .map_err(SignedError::from)
            .and_then(|policy| self.satisfy(policy, what.pcrs, &approval));
        let closed = self.close(session);
        result?;
        Ok(closed?)
    }

    /// Finds the policy of this boot among the signed ones and lets the TPM
    /// verify its signature. Five commands.
    fn approve(
        &mut self,
        pcrs: &PcrSelection,
        authority: &Authority,
        file: &[u8],
    ) -> Result<Approval, SignedError> {
        let values = self.pcrs(pcrs)?;
        let entry = authority.choose(file, pcrs, &values)?;
        let rollback = authority.rollback();
        let counter = self.counter(&rollback)?;
        let ticket = self.verify(&authority.policy_key, &entry)?;
        let wrapped = |e| SignedError::Tpm(error::from_esapi(e, 0));
        Ok(Approval {
            policy: super::to_digest(&entry.policy)?,
            key: Name::try_from(authority.policy_key.name().to_vec()).map_err(wrapped)?,
            ticket,
            counter,
            rollback,
        })
    }

    /// The TPM's word that the key signed the entry's policy. The key is loaded
    /// for the moment.
    fn verify(
        &mut self,
        key: &PolicyKey,
        entry: &SignedPolicy,
    ) -> Result<TPMT_TK_VERIFIED, SignedError> {
        let signature = signature(key, &entry.signature).ok_or(SignedError::BadSignature)?;
        // The aHash of PolicyAuthorize (Part 3, 23.16); the policyRef is empty.
        let hashed = super::to_digest(&Sha256Digest::of(entry.policy.as_bytes()))?;
        let public = Public::unmarshall(key.public()).map_err(|e| error::from_esapi(e, 0))?;
        let loaded = self.run(0, |c| {
            c.execute_without_session(|c| c.load_external(None, public, Hierarchy::Owner))
        })?;
        let verified = self.run(0, |c| {
            c.execute_without_session(|c| c.verify_signature(loaded, hashed, signature))
        });
        self.run(0, |c| c.flush_context(loaded.into()))?;
        let ticket = verified.map_err(|refusal| match refusal {
            TpmError::Other(code) if code & ABOUT == SECOND_PARAMETER => SignedError::BadSignature,
            other => SignedError::from(other),
        })?;
        Ok(ticket.try_into().map_err(|e| error::from_esapi(e, 0))?)
    }

    /// PolicyPCR, PolicyNV, PolicyAuthorize. Three commands.
    fn satisfy(
        &mut self,
        policy: PolicySession,
        pcrs: &PcrSelection,
        approval: &Approval,
    ) -> Result<(), SignedError> {
        self.policy_pcr(policy, pcrs)?;
        self.policy_counter(policy, approval)?;
        let authorized = self.run(0, |c| {
            c.execute_without_session(|c| {
                c.policy_authorize(
                    policy,
                    approval.policy.clone(),
                    Nonce::default(),
                    &approval.key,
                    approval.ticket.try_into()?,
                )
            })
        });
        authorized.map_err(|refusal| match refusal {
            // The PCRs have moved since they were read.
            TpmError::Other(RC_NOT_APPROVED) => TpmError::PolicyFailed.into(),
            other => other.into(),
        })
    }

    /// PolicyNV: the counter is at most this image's version.
    fn policy_counter(
        &mut self,
        policy: PolicySession,
        approval: &Approval,
    ) -> Result<(), SignedError> {
        let handle = approval.counter.handle;
        let operand = Digest::try_from(approval.rollback.operand().to_vec())
            .map_err(|e| error::from_esapi(e, approval.rollback.counter))?;
        let compared = self.run(approval.rollback.counter, |c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                c.policy_nv(
                    policy,
                    NvAuth::NvIndex(handle),
                    handle,
                    operand,
                    0,
                    // The library does not let its own type be named.
                    (NvOperation::UnsignedLessOrEqual as u16).try_into()?,
                )
            })
        });
        match compared {
            Ok(()) => Ok(()),
            Err(TpmError::Other(RC_POLICY)) => Err(SignedError::CounterAhead {
                version: approval.rollback.version,
                value: self.counter_value(approval.counter)?,
            }),
            Err(TpmError::IndexMissing(index)) => Err(SignedError::CounterMissing(index)),
            Err(other) => Err(other.into()),
        }
    }
}

/// The signature as the TPM takes it; `None` if it cannot be one of the key.
fn signature(key: &PolicyKey, bytes: &[u8]) -> Option<Signature> {
    let hash = HashingAlgorithm::Sha256;
    if key.is_rsa() {
        let bytes = PublicKeyRsa::try_from(bytes.to_vec()).ok()?;
        return RsaSignature::create(hash, bytes).ok().map(Signature::RsaSsa);
    }
    let (r, s) = two_integers(bytes)?;
    let number = |bytes: &[u8]| EccParameter::try_from(bytes.to_vec()).ok();
    EccSignature::create(hash, number(r)?, number(s)?).ok().map(Signature::EcDsa)
}
