//! IMA's measurement list: one record for each file, buffer or violation that the kernel has
//! extended a PCR with, as text or in the binary form.
//!
//! Both forms are read record by record ([`binary`], [`ascii`], [`growing`]): a list has as many as a boot
//! has measured, and none is kept. A record is held against its own template digest, and the
//! whole list against a PCR ([`replay`]).
//!
//! Source: Linux, security/integrity/ima/ima_fs.c, ima_template.c, ima_template_lib.c;
//! Documentation/security/IMA-templates.rst.

pub mod ascii;
pub mod binary;
mod field;
pub mod growing;
mod record;
pub mod replay;
mod template;
#[cfg(test)]
mod tests;

pub use field::{FieldError, FileDigest, Prefix, kernel_name};
pub use record::Record;
pub use template::{Field, Template, TemplateError};

use pcr_measure::digest::{Algorithm, DigestError};

/// Most bytes that a record's data may have. The kernel's own are a few KiB; policies and
/// keys that it measures as buffers are larger.
pub const MAX_DATA: u32 = 16 << 20;

/// A list that cannot be read on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The file.
    #[error("the list cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// It ends where it should not.
    #[error("the list ends within entry {0}")]
    Cut(u64),
    /// A number that cannot be.
    #[error("entry {entry}: {what} is {found}")]
    Number {
        /// Counted from 1.
        entry: u64,
        /// Which number.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// A template that is not known.
    #[error("entry {entry}: {cause}")]
    Template {
        /// Counted from 1.
        entry: u64,
        /// What is wrong with it.
        cause: TemplateError,
    },
    /// A field that holds something else.
    #[error("entry {entry}: {cause}")]
    Field {
        /// Counted from 1.
        entry: u64,
        /// What is wrong with it.
        cause: FieldError,
    },
    /// A line that is none of a list.
    #[error("entry {entry} is no line of a measurement list: {what}")]
    Line {
        /// Counted from 1.
        entry: u64,
        /// What it lacks.
        what: &'static str,
    },
    /// A hash that this build has not.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// The digest that stands in a record where the list is not told to be another one's:
/// `ascii_runtime_measurements` and `binary_runtime_measurements` have SHA-1.
pub const DEFAULT: Algorithm = Algorithm::Sha1;
