//! Entry by entry: whether a list is one of a healthy system.
//!
//! Two may vouch for a file: a [`Reference`], and whoever signed it. A name that the reference
//! knows with other contents is bad whoever signed it: an old program with a known hole is
//! well signed, too. A signature that does not hold is bad whatever the reference says.
//!
//! None of it is worth anything before the list leads to the PCR of a quote
//! ([`crate::list::replay`]).

mod reading;

use pcr_measure::digest::Digest;

use crate::evm::{self, Metadata};
use crate::list::{Field, FileDigest, ListError, Prefix, Record};
use crate::reference::{Judgement, Reference};
use crate::signature::{AppendedVerdict, Keyring, Kind, Verdict};

pub use reading::{FaultyEntry, ListFindings, PcrFindings, Reading};

/// Name of the first entry: the digest over PCR 0-9 as the kernel found them
/// (Linux, security/integrity/ima/ima_init.c).
pub const BOOT_AGGREGATE: &[u8] = b"boot_aggregate";

/// What is wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fault {
    /// Its template digest is not that of its data.
    Broken,
    /// The kernel lost track: a file was written while it was measured.
    Violation,
    /// The reference has other contents of this name.
    Changed,
    /// Neither reference nor keyring knows it.
    Unknown,
    /// The reference has this name by other hashes alone, and nobody signed it.
    OtherHash,
    /// The signature is none of this content.
    BadSignature,
    /// The buffer is not what its digest says.
    Buffer,
    /// The first entry is not the boot that is known.
    OtherBoot,
    /// The template has no name or digest: nothing can be said.
    Nameless,
}

impl Fault {
    /// In words.
    #[must_use]
    pub const fn told(self) -> &'static str {
        match self {
            Self::Broken => "its digest is not that of its data: the list was changed",
            Self::Violation => "it was written while it was measured: what ran is not known",
            Self::Changed => "it has changed",
            Self::Unknown => "it is not known",
            Self::OtherHash => "it is known by other hashes only",
            Self::BadSignature => "its signature is not of this content",
            Self::Buffer => "the buffer is not what its digest says",
            Self::OtherBoot => "the firmware's PCRs were others than expected",
            Self::Nameless => "its template has no name or no digest",
        }
    }
}

/// By what a list is judged. Without reference and keyring only what contradicts itself is a
/// fault.
#[derive(Debug, Clone, Copy, Default)]
pub struct Judge<'a> {
    /// What is known to be good.
    pub reference: Option<&'a Reference>,
    /// Who may sign files.
    pub keyring: Option<&'a Keyring>,
    /// The digest of the entry `boot_aggregate`. Without it the reference has to know it.
    pub boot_aggregate: Option<&'a Digest>,
}

/// What a signature is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Signed {
    /// A key of the keyring made it over this content.
    Well,
    /// It is none of this content.
    Badly,
    /// Nobody here knows its key, it does not cover what was measured, or it is of a form that
    /// is not judged.
    OtherKey,
    /// There is none, or no keyring to hold it against.
    Not,
}

/// What an entry is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// What is wrong with it; `None`: nothing.
    pub fault: Option<Fault>,
    /// Whether reference or signature vouch for it.
    pub is_known: bool,
    /// What its signature is worth.
    pub signed: Signed,
}

impl Judged {
    /// An entry with a fault that is none of its file's.
    const fn faulty(fault: Fault) -> Self {
        Self { fault: Some(fault), is_known: false, signed: Signed::Not }
    }
}

impl Judge<'_> {
    /// What is wrong with an entry, by its place in the list, counted from 1; `None`: nothing.
    ///
    /// The place counts: a file on a mount that has no path is named in a list by its last
    /// part alone (`ima_d_path`), so that anybody's program can be called `boot_aggregate`.
    ///
    /// # Errors
    /// That this build has no such hash.
    pub fn judge(&self, entry: u64, record: &Record) -> Result<Option<Fault>, ListError> {
        Ok(self.look(entry, record)?.fault)
    }

    /// As [`Self::judge`], with who vouches for it.
    ///
    /// # Errors
    /// That this build has no such hash.
    pub fn look(&self, entry: u64, record: &Record) -> Result<Judged, ListError> {
        if record.is_violation() {
            return Ok(Judged::faulty(Fault::Violation));
        }
        if !record.is_whole()? {
            return Ok(Judged::faulty(Fault::Broken));
        }
        let (Some(name), Some(digest)) = (record.name(), record.file_digest()) else {
            return Ok(Judged::faulty(Fault::Nameless));
        };
        if let (Some(buffer), Some(known)) = (record.field(Field::Buffer), digest.known())
            && known.algorithm().hash(&[buffer])? != known
        {
            return Ok(Judged::faulty(Fault::Buffer));
        }
        let is_aggregate = entry == 1 && name == BOOT_AGGREGATE;
        if let (true, Some(expected)) = (is_aggregate, self.boot_aggregate) {
            let is_known = digest.known().is_some_and(|found| found == *expected);
            let fault = (!is_known).then_some(Fault::OtherBoot);
            return Ok(Judged { fault, is_known, signed: Signed::Not });
        }
        let signed = self.signed(record, &digest)?;
        let judged = self.reference.and_then(|reference| reference.judge_record(record));
        let fault = match (judged, signed) {
            (_, Signed::Badly) => Some(Fault::BadSignature),
            (Some(Judgement::Known | Judgement::Excluded), _) => None,
            (Some(Judgement::Changed), _) => Some(Fault::Changed),
            (_, Signed::Well) => None,
            (Some(Judgement::OtherHash), _) => Some(Fault::OtherHash),
            (Some(Judgement::Unknown), _) => Some(Fault::Unknown),
            // The keyring alone: the kernel's own entries nobody signs.
            (None, _) => {
                let is_file = record.field(Field::Buffer).is_none() && !is_aggregate;
                (self.keyring.is_some() && is_file).then_some(Fault::Unknown)
            }
        };
        let is_known = fault.is_none() && (judged.is_some() || signed == Signed::Well);
        Ok(Judged { fault, is_known, signed })
    }

    /// What the signatures in an entry are worth, by the keyring. An appended one is asked where
    /// the attributes do not decide, as in the kernel (`ima_appraise_measurement`).
    fn signed(&self, record: &Record, digest: &FileDigest) -> Result<Signed, ListError> {
        let Some(keyring) = self.keyring else { return Ok(Signed::Not) };
        let by_attributes = of_attributes(keyring, record, digest)?;
        Ok(match by_attributes {
            Signed::Well | Signed::Badly => by_attributes,
            Signed::OtherKey | Signed::Not => appended(keyring, record).unwrap_or(by_attributes),
        })
    }
}

/// What an appended signature is worth. It is over the file without it, whose digest is beside
/// it; that of the whole file, by which a reference judges, is another.
fn appended(keyring: &Keyring, record: &Record) -> Option<Signed> {
    let signature = record.field(Field::Modsig).filter(|bytes| !bytes.is_empty())?;
    let Some(digest) = record.modsig_digest().and_then(|digest| digest.known()) else {
        return Some(Signed::OtherKey);
    };
    Some(match keyring.verify_appended(signature, &digest) {
        AppendedVerdict::Good(_) => Signed::Well,
        AppendedVerdict::Unknown => Signed::OtherKey,
        AppendedVerdict::NotTaken(error) if error.is_of_another_form() => Signed::OtherKey,
        AppendedVerdict::Bad | AppendedVerdict::Algorithm(_) | AppendedVerdict::NotTaken(_) => {
            Signed::Badly
        }
    })
}

/// What the signatures in a file's attributes are worth.
fn of_attributes(
    keyring: &Keyring,
    record: &Record,
    digest: &FileDigest,
) -> Result<Signed, ListError> {
    let file = record.field(Field::Signature).filter(|bytes| is_of_file(bytes));
    if let (Some(signature), Some(known)) = (file, digest.known()) {
        let kind = match digest.prefix {
            Some(Prefix::Verity) => Kind::Verity,
            _ => Kind::File,
        };
        return Ok(worth(&keyring.verify(kind, signature, &known)));
    }
    let portable = record.field(Field::EvmSignature).filter(|bytes| !bytes.is_empty());
    let Some(signature) = portable else { return Ok(Signed::Not) };
    let Some(metadata) = metadata(record) else { return Ok(Signed::OtherKey) };
    let Ok(parsed) = crate::signature::Signature::parse(signature) else {
        return Ok(Signed::Badly);
    };
    let values = attributes(record);
    let value = |wanted: &str| {
        let found = values.iter().find(|(name, _)| *name == wanted.as_bytes());
        found.map(|(_, value)| *value)
    };
    // What `security.ima` says has to be what was measured: EVM's signature is over that
    // attribute and not over the file.
    let names_it = value(evm::IMA).is_some_and(|its| {
        let signed = || {
            let known = digest.known()?;
            Some(worth(&keyring.verify(Kind::File, its, &known)) == Signed::Well)
        };
        is_digest_of(its, digest) || signed() == Some(true)
    });
    let over = evm::digest(parsed.algorithm, value, metadata)?;
    Ok(match worth(&keyring.verify(Kind::Portable, signature, &over)) {
        Signed::Well if !names_it => Signed::OtherKey,
        worth => worth,
    })
}

/// The field `sig` holds EVM's signature where a file has none of its own
/// (`ima_eventsig_init`), and what that covers is not in such an entry.
fn is_of_file(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|kind| [Kind::File as u8, Kind::Verity as u8].contains(kind))
}

const fn worth(verdict: &Verdict<'_>) -> Signed {
    match verdict {
        Verdict::Good(_) => Signed::Well,
        Verdict::Unknown(_) => Signed::OtherKey,
        Verdict::Bad(_) | Verdict::Malformed(_) => Signed::Badly,
    }
}

/// Whether `security.ima` is a digest, and this one: type 4 (`IMA_XATTR_DIGEST_NG`), the
/// hash's number, the digest.
fn is_digest_of(attribute: &[u8], digest: &FileDigest) -> bool {
    matches!(attribute, [4, _, rest @ ..] if rest == digest.bytes)
}

fn metadata(record: &Record) -> Option<Metadata> {
    let number = |field| record.field(field)?.first_chunk().copied().map(u32::from_le_bytes);
    let mode = record.field(Field::Mode)?.first_chunk().copied().map(u16::from_le_bytes)?;
    Some(Metadata { uid: number(Field::Uid)?, gid: number(Field::Gid)?, mode })
}

/// Names and values of the attributes in an entry (`evm-sig`): `|` between names and NUL
/// behind the last, lengths have four bytes each, values follow one another
/// (`evm_read_protected_xattrs`).
fn attributes(record: &Record) -> Vec<(&[u8], &[u8])> {
    let field = |wanted| record.field(wanted).unwrap_or_default();
    let names = field(Field::XattrNames).split(|byte| matches!(byte, b'|' | 0));
    let (lengths, _) = field(Field::XattrLengths).as_chunks::<4>();
    let mut values = field(Field::XattrValues);
    let mut found = Vec::new();
    for (name, length) in names.zip(lengths) {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some((value, rest)) = values.split_at_checked(length) else { break };
        found.push((name, value));
        values = rest;
    }
    found
}

#[cfg(test)]
mod tests;
