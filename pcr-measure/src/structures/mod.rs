//! Structures of a TPM as it marshals them (TPM 2.0 Library 1.59, Part 2),
//! big-endian, read from foreign bytes.
//!
//! A structure that was read says what somebody wrote down and nothing more; who
//! wrote it, a signature tells.

mod attest;
mod der;
mod nv;
mod public;
mod signature;

pub use attest::{Attest, Attested, ClockInfo, QuoteInfo, QuotedBank};
pub use der::two_integers;
pub use nv::{NvPublic, attribute as nv_attribute};
pub use public::{EccCurve, PublicParameters, TpmPublic};
pub use signature::{SignatureValue, TpmSignature};

use crate::reader::Short;

/// What can be wrong with the bytes of a structure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StructureError {
    /// The bytes end inside it.
    #[error("the {0} ends too early")]
    Truncated(&'static str),
    /// Bytes are left over.
    #[error("{left} bytes are left over behind the {what}")]
    LeftOver {
        /// Which structure.
        what: &'static str,
        /// How many bytes.
        left: usize,
    },
    /// A field has a value that is not taken.
    #[error("the {what} has {field} {value:#x}, which is not taken here")]
    Field {
        /// Which structure.
        what: &'static str,
        /// Which field of it.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A kind of structure that has a name and is not taken.
    #[error("the {what} is of {name}, which is not taken here")]
    Kind {
        /// Which structure.
        what: &'static str,
        /// What it is.
        name: &'static str,
    },
}

/// Names the structure that was too short.
fn short(what: &'static str) -> impl Fn(Short) -> StructureError {
    move |Short| StructureError::Truncated(what)
}

#[cfg(test)]
pub(crate) mod build;
#[cfg(test)]
mod tests;
