//! One record of a list.

use pcr_measure::digest::{Algorithm, Digest};
use pcr_measure::pcr::PcrIndex;

use super::field::{FieldError, FileDigest};
use super::template::{Field, Template};
use super::{ListError, MAX_DATA};

/// A record. Its data are the fields' bytes, each with its length in front, as they are
/// hashed; of the template `ima` as that hashes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it was extended.
    pub pcr: PcrIndex,
    /// The template digest that stands in the list; zeros for a violation.
    pub digest: Digest,
    /// Its template.
    pub template: Template,
    fields: Vec<Vec<u8>>,
}

/// Bytes of a name in the template `ima`, its NUL included (`IMA_EVENT_NAME_LEN_MAX` + 1).
const IMA_NAME: usize = 256;

impl Record {
    /// A record of these fields, which are checked.
    ///
    /// # Errors
    /// [`FieldError`].
    pub(super) fn new(
        pcr: PcrIndex,
        digest: Digest,
        template: Template,
        fields: Vec<Vec<u8>>,
    ) -> Result<Self, FieldError> {
        let record = Self { pcr, digest, template, fields };
        for (field, bytes) in record.fields() {
            check(field, bytes)?;
        }
        Ok(record)
    }

    /// Fields and their bytes, in the template's order.
    pub fn fields(&self) -> impl Iterator<Item = (Field, &[u8])> {
        let bytes = self.fields.iter().map(Vec::as_slice);
        self.template.fields().iter().copied().zip(bytes)
    }

    /// The bytes of a field; `None` if the template has none such.
    #[must_use]
    pub fn field(&self, wanted: Field) -> Option<&[u8]> {
        self.fields().find(|(field, _)| *field == wanted).map(|(_, bytes)| bytes)
    }

    /// The digest of the file or buffer.
    #[must_use]
    pub fn file_digest(&self) -> Option<FileDigest> {
        let is_digest =
            |field| matches!(field, Field::Digest | Field::DigestNg | Field::DigestNgv2);
        let (field, bytes) = self.fields().find(|(field, _)| is_digest(*field))?;
        FileDigest::read(field, bytes).ok()
    }

    /// The digest of the file without its appended signature.
    #[must_use]
    pub fn modsig_digest(&self) -> Option<FileDigest> {
        let field = Field::ModsigDigest;
        FileDigest::read(field, self.field(field)?).ok()
    }

    /// The file's name, or what the kernel calls a buffer. The bytes are whatever the file
    /// system has.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        match (self.field(Field::NameNg), self.field(Field::Name)) {
            (Some(name), _) => name.strip_suffix(b"\0"),
            (None, name) => name,
        }
    }

    /// Whether the kernel has lost track of what it was to measure: a file was written
    /// while it was read, or read while it was written (`ima_add_violation`).
    #[must_use]
    pub fn is_violation(&self) -> bool {
        self.digest.as_bytes().iter().all(|byte| *byte == 0)
    }

    /// The template digest that its data have (`ima_calc_field_array_hash_tfm`).
    ///
    /// # Errors
    /// That this build has no such hash.
    pub fn hash(&self, algorithm: Algorithm) -> Result<Digest, ListError> {
        let mut data = Vec::new();
        for (field, bytes) in self.fields() {
            if self.template.is_ima() {
                data.extend(bytes);
                if field == Field::Name {
                    data.resize(data.len() + IMA_NAME.saturating_sub(bytes.len()), 0);
                }
            } else {
                // Not more than `MAX_DATA`, which fits.
                let length = u32::try_from(bytes.len()).unwrap_or(MAX_DATA);
                data.extend(length.to_le_bytes());
                data.extend(bytes);
            }
        }
        Ok(algorithm.hash(&[&data])?)
    }

    /// Whether its digest is that of its data. A violation has none.
    ///
    /// # Errors
    /// That this build has no such hash.
    pub fn is_whole(&self) -> Result<bool, ListError> {
        Ok(self.is_violation() || self.hash(self.digest.algorithm())? == self.digest)
    }

    /// What a bank of this algorithm is extended with: for a violation all ones
    /// (`ima_add_template_entry`).
    ///
    /// # Errors
    /// That this build has no such hash.
    pub fn extends_by(&self, algorithm: Algorithm) -> Result<Digest, ListError> {
        if self.is_violation() { Ok(Digest::filled(algorithm, 0xff)) } else { self.hash(algorithm) }
    }
}

/// A field holds what its name says. An attribute that a file has not is an empty field.
fn check(field: Field, bytes: &[u8]) -> Result<(), FieldError> {
    let sized = |fits: bool| match fits {
        true => Ok(()),
        false => Err(FieldError::Size { field, size: bytes.len() }),
    };
    match field {
        Field::Digest | Field::DigestNg | Field::DigestNgv2 => {
            FileDigest::read(field, bytes).map(|_| ())
        }
        Field::ModsigDigest if bytes.is_empty() => Ok(()),
        Field::ModsigDigest => FileDigest::read(field, bytes).map(|_| ()),
        Field::Name => match bytes.contains(&0) {
            true => Err(FieldError::Name(field)),
            false => sized(bytes.len() < IMA_NAME),
        },
        Field::NameNg => match bytes.split_last() {
            Some((0, name)) if !name.contains(&0) => Ok(()),
            _ => Err(FieldError::Name(field)),
        },
        Field::Uid | Field::Gid => sized(bytes.len() == 4),
        Field::Mode => sized(bytes.len() == 2),
        Field::XattrLengths => sized(bytes.len().is_multiple_of(4)),
        Field::Signature
        | Field::Modsig
        | Field::Buffer
        | Field::EvmSignature
        | Field::XattrNames
        | Field::XattrValues => Ok(()),
    }
}
