//! Unsealing under PolicyAuthorize: the TPM verifies the signature of this
//! boot's policy, then the policy itself.

use super::counter::Counter;
use super::{Index, Tpm, TpmError, Unsealing, error};
use crate::authority::{Approved, Authority, PolicyKey, SignedError};
use crate::sealed::Sealed;
use crate::volume::LATCH;
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
use tss_esapi::tss2_esys::{TPM2B_DIGEST, TPMT_TK_VERIFIED};

/// `TPM_RC_POLICY`: PolicyNV compared, and it does not hold (TPM 2.0 Library
/// 1.59, Part 2, 6.6.3).
const RC_POLICY: u32 = 0x126;
/// `TPM_RC_VALUE` about the first parameter: PolicyAuthorize, when the session's
/// digest is not the approved one (Part 3, 23.16).
const RC_NOT_APPROVED: u32 = 0x1c4;
/// Bits of a format-one code that is about the second parameter (6.6.2).
const SECOND_PARAMETER: u32 = 0x2c0;
/// `TPM_ST_VERIFIED` (Part 2, 6.9).
const TPM2_ST_VERIFIED: u16 = 0x8022;
/// `TPM_RH_OWNER` (Part 2, 7.4).
const TPM2_RH_OWNER: u32 = 0x4000_0001;
/// All bits but those that say which error.
const ABOUT: u32 = !0x3f;

/// A policy that the TPM has verified the signature of, with what it takes to satisfy it.
#[derive(Debug)]
struct Approval {
    policy: Digest,
    key: Name,
    ticket: TPMT_TK_VERIFIED,
    counter: Counter,
    rollback: Rollback,
}

/// What a later boot needs of a ticket; `None` for one of an odd form.
fn to_keep(policy: Sha256Digest, ticket: &TPMT_TK_VERIFIED) -> Option<Approved> {
    let size = usize::from(ticket.digest.size);
    let ticket = ticket.digest.buffer.get(..size)?.to_vec();
    Some(Approved { policy, ticket })
}

/// A ticket of the owner hierarchy with this HMAC.
fn ticket(hmac: &[u8]) -> Result<TPMT_TK_VERIFIED, TpmError> {
    let mut digest = TPM2B_DIGEST::default();
    let room = digest.buffer.get_mut(..hmac.len());
    room.ok_or_else(|| TpmError::Library("a ticket that is too long".into()))?
        .copy_from_slice(hmac);
    digest.size = u16::try_from(hmac.len()).unwrap_or(0);
    Ok(TPMT_TK_VERIFIED { tag: TPM2_ST_VERIFIED, hierarchy: TPM2_RH_OWNER, digest })
}

fn name_of(key: &PolicyKey) -> Result<Name, TpmError> {
    Name::try_from(key.name().to_vec()).map_err(|e| error::from_esapi(e, 0))
}

impl Tpm {
    /// Reads the secret as [`Tpm::unseal`] does, under the binding `signed`. No read
    /// lock follows: the policy has to be run anew for one, and the index' own policy
    /// wants the latch open, which is as good until the next reset.
    ///
    /// What was `approved` before, for this very boot, is tried first. `files` gives the
    /// signed policies of the slots where that does not do; then what the TPM has verified comes with
    /// the secret, to be kept for the next boot.
    ///
    /// # Errors
    /// [`SignedError`] by what an operator can do about it.
    pub fn unseal_signed(
        &mut self,
        index: &Index,
        what: Unsealing<'_>,
        authority: &Authority,
        approved: Option<&Approved>,
        files: impl FnOnce() -> Result<Vec<Vec<u8>>, SignedError>,
    ) -> Result<(Sealed, Option<Approved>), SignedError> {
        if index.policy() != what.guard.policy()?.as_bytes() {
            return Err(SignedError::OtherAuthority);
        }
        let what = Unsealing { lock: false, ..what };
        if let Some(approved) = approved {
            match self.unseal_approved(index, what, authority, approved) {
                Ok(sealed) => return Ok((sealed, None)),
                // That the policy holds is proven; another ticket changes nothing.
                Err(SignedError::Tpm(wrong @ (TpmError::WrongPin | TpmError::Lockout))) => {
                    return Err(wrong.into());
                }
                // Another image, a TPM that was cleared, something that was made up.
                Err(_) => {}
            }
        }
        let (approval, kept) = self.approve(what.pcrs, authority, &files()?)?;
        let sealed = self.unseal_by(index, what, &approval)?;
        Ok((sealed, kept))
    }

    fn unseal_approved(
        &mut self,
        index: &Index,
        what: Unsealing<'_>,
        authority: &Authority,
        approved: &Approved,
    ) -> Result<Sealed, SignedError> {
        let rollback = authority.rollback();
        let approval = Approval {
            policy: super::to_digest(&approved.policy)?,
            key: name_of(&authority.policy_key)?,
            ticket: ticket(&approved.ticket)?,
            counter: self.counter(&rollback)?,
            rollback,
        };
        self.unseal_by(index, what, &approval)
    }

    fn unseal_by(
        &mut self,
        index: &Index,
        what: Unsealing<'_>,
        approval: &Approval,
    ) -> Result<Sealed, SignedError> {
        self.unseal_under(index, what, |tpm, policy| tpm.satisfy(policy, what.pcrs, approval))
    }

    /// Runs the whole policy in a session that counts, and reads nothing: what
    /// a boot of this kind would be told. Gives what spares that boot the signature.
    ///
    /// # Errors
    /// As [`Tpm::unseal_signed`].
    pub fn try_signed(
        &mut self,
        what: Unsealing<'_>,
        authority: &Authority,
        files: &[Vec<u8>],
    ) -> Result<Option<Approved>, SignedError> {
        let (approval, kept) = self.approve(what.pcrs, authority, files)?;
        let srk = self.pinned_srk(what.srk, what.srk_name)?;
        let session = self.session(srk, SessionType::Policy)?;
        let result = super::unseal::policy_session(session)
            .map_err(SignedError::from)
            .and_then(|policy| self.satisfy(policy, what.pcrs, &approval));
        let closed = self.close(session);
        result?;
        closed?;
        Ok(kept)
    }

    /// Lets the TPM verify the signature of a policy, of this boot or of another one.
    /// Three commands.
    ///
    /// # Errors
    /// [`SignedError::BadSignature`]; [`SignedError::Tpm`].
    pub fn approve_entry(
        &mut self,
        key: &PolicyKey,
        entry: &SignedPolicy,
    ) -> Result<Approved, SignedError> {
        let ticket = self.verify_entry(key, entry)?;
        let odd = || TpmError::Library("a ticket that is too long".into());
        Ok(to_keep(entry.policy, &ticket).ok_or_else(odd)?)
    }

    /// Finds the policy of this boot among the signed ones and lets the TPM
    /// verify its signature. Five commands.
    fn approve(
        &mut self,
        pcrs: &PcrSelection,
        authority: &Authority,
        files: &[Vec<u8>],
    ) -> Result<(Approval, Option<Approved>), SignedError> {
        let values = self.pcrs(pcrs)?;
        let entry = authority.choose(files, pcrs, &values)?;
        let rollback = authority.rollback();
        let counter = self.counter(&rollback)?;
        let ticket = self.verify_entry(&authority.policy_key, &entry)?;
        let kept = to_keep(entry.policy, &ticket);
        let approval = Approval {
            policy: super::to_digest(&entry.policy)?,
            key: name_of(&authority.policy_key)?,
            ticket,
            counter,
            rollback,
        };
        Ok((approval, kept))
    }

    /// The TPM's word that the key signed the entry's policy.
    fn verify_entry(
        &mut self,
        key: &PolicyKey,
        entry: &SignedPolicy,
    ) -> Result<TPMT_TK_VERIFIED, SignedError> {
        // The aHash of PolicyAuthorize (Part 3, 23.16); the policyRef is empty.
        self.verify(key, &Sha256Digest::of(entry.policy.as_bytes()), &entry.signature)
    }

    /// The TPM's word that the key signed a digest: RSASSA, or ECDSA as DER, both with
    /// SHA-256. The key is loaded for the moment. Three commands.
    ///
    /// # Errors
    /// [`SignedError::BadSignature`]; [`TpmError`] otherwise.
    pub fn verify(
        &mut self,
        key: &PolicyKey,
        digest: &Sha256Digest,
        bytes: &[u8],
    ) -> Result<TPMT_TK_VERIFIED, SignedError> {
        let signature = signature(key, bytes).ok_or(SignedError::BadSignature)?;
        let hashed = super::to_digest(digest)?;
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

    /// PolicyPCR, PolicyNV, PolicyAuthorize, and PolicyPCR over the latch. Four
    /// commands.
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
            TpmError::Other(RC_NOT_APPROVED) => SignedError::from(TpmError::PolicyFailed),
            other => other.into(),
        })?;
        let latch = PcrSelection::sha256(&[LATCH.into()]);
        let latch = latch.map_err(|e| TpmError::Library(e.to_string()))?;
        Ok(self.policy_pcr(policy, &latch)?)
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
