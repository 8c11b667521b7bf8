//! What can be wrong with a quote, by step.

use std::fmt;

use crate::digest::{Algorithm, Digest};
use crate::eventlog::AlgorithmId;
use crate::key::{KeyError, Scheme};
use crate::pcr::{PcrError, PcrSelection};
use crate::structures::{Attest, QuotedBank, StructureError};

use super::MAX_NONCE;

/// Why a quote was refused, or could not be verified.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// The nonce that is expected is longer than a TPM takes.
    #[error("a nonce of {0} bytes is longer than the {MAX_NONCE} that a TPM takes")]
    NonceTooLong(usize),
    /// No PCR is expected.
    #[error("no PCRs are expected: name those that the quote has to be over")]
    Nothing,
    /// The same bank twice in what is expected.
    #[error("the {0} bank is named twice: name all of its PCRs in one selection")]
    BankTwice(Algorithm),
    /// A value that the selection needs is missing.
    #[error("the digest cannot be computed: {0}")]
    Values(#[from] PcrError),
    /// The key is not one that signs only what its TPM made.
    #[error(
        "the key is not {0}: whoever may use it can have a forged quote signed; use a restricted key, as tpm2_createak makes it"
    )]
    Key(&'static str),
    /// The message is no `TPMS_ATTEST`.
    #[error("the message cannot be read: {0}")]
    Message(#[source] StructureError),
    /// The signature is no `TPMT_SIGNATURE` that is taken.
    #[error("the signature cannot be read: {0}")]
    SignatureStructure(#[source] StructureError),
    /// The message was not made by a TPM.
    #[error(
        "the message has magic {0:#010x}, not {magic:#010x}: no TPM made it",
        magic = Attest::GENERATED
    )]
    Magic(u32),
    /// The message says something else than a quote.
    #[error(
        "the message is an attestation of type {0:#06x}, not a quote ({quote:#06x})",
        quote = Attest::QUOTE
    )]
    Type(u16),
    /// The signature is over a weak or unknown hash.
    #[error("signatures over {0} are not taken: quote with sha256, sha384 or sha512")]
    Hash(AlgorithmId),
    /// The signature is wrong.
    #[error(
        "the {scheme} signature over {hash} is not this key's over this message: either was changed, or another key signed"
    )]
    Signature {
        /// Its scheme.
        scheme: Scheme,
        /// Its hash.
        hash: Algorithm,
    },
    /// The signature is of another kind than the key, or OpenSSL failed.
    #[error(transparent)]
    OtherKey(#[from] KeyError),
    /// The quote answers another nonce.
    #[error(
        "the quote is for nonce {}, not {}: it was made for somebody else or at another time",
        hex_or_none(.got),
        hex_or_none(.want)
    )]
    Nonce {
        /// What was expected.
        want: Vec<u8>,
        /// What was signed along.
        got: Vec<u8>,
    },
    /// The quote is over other PCRs.
    #[error("the quote is over {}, not {}", quoted(.got), wanted(.want))]
    Selection {
        /// What was expected.
        want: Vec<PcrSelection>,
        /// What was quoted.
        got: Vec<QuotedBank>,
    },
    /// The PCRs had other values.
    #[error(
        "the PCRs had other values: the quote's digest is {}, these values give {computed}",
        hex_or_none(.quoted)
    )]
    Digest {
        /// Over the values that were given.
        computed: Digest,
        /// In the quote.
        quoted: Vec<u8>,
    },
}

/// A step of the verification. `Display` and JSON are its name in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// What the caller expects.
    Expected,
    /// The key's attributes.
    Key,
    /// Reading message and signature.
    Structure,
    /// Made by a TPM at all.
    Magic,
    /// A quote at all.
    Type,
    /// The signature.
    Signature,
    /// The nonce.
    Nonce,
    /// The PCRs.
    Selection,
    /// Their values.
    Digest,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expected => "expected",
            Self::Key => "key",
            Self::Structure => "structure",
            Self::Magic => "magic",
            Self::Type => "type",
            Self::Signature => "signature",
            Self::Nonce => "nonce",
            Self::Selection => "selection",
            Self::Digest => "digest",
        })
    }
}

impl QuoteError {
    /// The step that it came from.
    #[must_use]
    pub const fn step(&self) -> Step {
        match self {
            Self::NonceTooLong(_) | Self::Nothing | Self::BankTwice(_) => Step::Expected,
            Self::Key(_) => Step::Key,
            Self::Message(_) | Self::SignatureStructure(_) => Step::Structure,
            Self::Magic(_) => Step::Magic,
            Self::Type(_) => Step::Type,
            Self::Hash(_) | Self::Signature { .. } | Self::OtherKey(_) => Step::Signature,
            Self::Nonce { .. } => Step::Nonce,
            Self::Selection { .. } => Step::Selection,
            Self::Values(_) | Self::Digest { .. } => Step::Digest,
        }
    }

    /// Whether the quote is bad. Otherwise nothing is known about it: what is
    /// expected cannot be, a value is missing, or OpenSSL failed.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        !matches!(
            self,
            Self::NonceTooLong(_)
                | Self::Nothing
                | Self::BankTwice(_)
                | Self::Values(_)
                | Self::OtherKey(KeyError::OpenSsl(_))
        )
    }
}

/// Foreign bytes in a message: as many as a TPM could send, not more.
fn hex_or_none(bytes: &[u8]) -> String {
    match bytes.get(..MAX_NONCE) {
        _ if bytes.is_empty() => "none at all".to_owned(),
        Some(head) if bytes.len() > MAX_NONCE => hex::encode(head) + "…",
        _ => hex::encode(bytes),
    }
}

fn wanted(selections: &[PcrSelection]) -> String {
    selections.iter().map(ToString::to_string).collect::<Vec<_>>().join("+")
}

fn quoted(selections: &[QuotedBank]) -> String {
    let said: Vec<_> = selections.iter().map(ToString::to_string).collect();
    if said.is_empty() { "no PCRs at all".to_owned() } else { said.join("+") }
}
