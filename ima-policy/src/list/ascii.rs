//! The text: `ascii_runtime_measurements` and its siblings for other algorithms (Linux,
//! `ima_ascii_measurements_show`). A line for each record: PCR, template digest, template,
//! and its fields, each behind one blank and empty where there is nothing.
//!
//! A name may have blanks in it, and no other field has: so fields are read from both ends. A
//! name with a newline breaks its line in two, and neither is one then: the binary form has no
//! such hole.

use std::io::{BufRead, Read as _};

use pcr_measure::digest::{Algorithm, Digest};
use pcr_measure::pcr::PcrIndex;

use super::field::{FieldError, FileDigest, prefixed};
use super::template::{Field, Template};
use super::{ListError, MAX_DATA, Record};

/// Longest line in bytes: data in hexadecimal, and what stands before.
const MAX_LINE: u64 = 2 * MAX_DATA as u64 + 4096;

/// Reads a list line by line. After an error it ends.
#[derive(Debug)]
pub struct Ascii<R> {
    reader: R,
    algorithm: Algorithm,
    entry: u64,
    line: Vec<u8>,
    is_over: bool,
}

impl<R: BufRead> Ascii<R> {
    /// A list whose template digests have this algorithm ([`DEFAULT`](super::DEFAULT) unless
    /// the file's name says otherwise).
    pub const fn new(reader: R, algorithm: Algorithm) -> Self {
        Self { reader, algorithm, entry: 0, line: Vec::new(), is_over: false }
    }

    fn record(&mut self) -> Result<Option<Record>, ListError> {
        self.line.clear();
        (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut self.line)?;
        if self.line.is_empty() {
            return Ok(None);
        }
        self.entry += 1;
        let entry = self.entry;
        let line = self.line.strip_suffix(b"\n").ok_or(ListError::Cut(entry))?;
        let no_line = |what| ListError::Line { entry, what };
        // The PCR has a width of two.
        let line = line.trim_ascii_start();
        let mut words = line.splitn(4, |byte| *byte == b' ');
        let mut word = |what| {
            let word = words.next().and_then(|word| std::str::from_utf8(word).ok());
            word.ok_or(no_line(what))
        };
        let pcr = word("a PCR")?.parse().ok().and_then(|pcr| PcrIndex::new(pcr).ok());
        let pcr = pcr.ok_or(no_line("a PCR"))?;
        let digest = word("a template digest")?;
        let digest = Digest::from_hex(self.algorithm, digest);
        let digest = digest.map_err(|_| no_line("a template digest of this algorithm"))?;
        let template = Template::new(word("a template")?)
            .map_err(|cause| ListError::Template { entry, cause })?;
        let fields = fields(&template, words.next().ok_or(no_line("fields"))?);
        let fields = fields.map_err(|cause| ListError::Field { entry, cause })?;
        let record = Record::new(pcr, digest, template, fields);
        record.map(Some).map_err(|cause| ListError::Field { entry, cause })
    }
}

impl<R: BufRead> Iterator for Ascii<R> {
    type Item = Result<Record, ListError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let record = self.record().transpose();
        self.is_over = !matches!(record, Some(Ok(_)));
        record
    }
}

/// Takes the fields apart: those before the name from the left, those behind it from the
/// right.
fn fields(template: &Template, text: &[u8]) -> Result<Vec<Vec<u8>>, FieldError> {
    let all = template.fields();
    let is_name = |field: &Field| matches!(field, Field::Name | Field::NameNg);
    let at = all.iter().position(is_name).unwrap_or(all.len());
    let (before, rest) = all.split_at_checked(at).unwrap_or((all, &[]));
    let mut text = Some(text);
    let mut found = Vec::with_capacity(all.len());
    let missing = |field: Field| FieldError::Text(field);
    for (index, field) in before.iter().enumerate() {
        let here = text.ok_or(missing(*field))?;
        let is_last = rest.is_empty() && index + 1 == before.len();
        let blank = here.iter().position(|byte| *byte == b' ').filter(|_| !is_last);
        let (word, after) = match blank {
            Some(blank) => (here.get(..blank), here.get(blank + 1..)),
            None => (Some(here), None),
        };
        found.push(read(*field, word.unwrap_or_default())?);
        text = after;
    }
    let Some((name, behind)) = rest.split_first() else {
        return if text.is_none() { Ok(found) } else { Err(missing(Field::NameNg)) };
    };
    let mut text = text.ok_or(missing(*name))?;
    let mut last = Vec::new();
    for field in behind.iter().rev() {
        let blank = text.iter().rposition(|byte| *byte == b' ').ok_or(missing(*field))?;
        last.push(read(*field, text.get(blank + 1..).unwrap_or_default())?);
        text = text.get(..blank).unwrap_or_default();
    }
    found.push(read(*name, text)?);
    found.extend(last.into_iter().rev());
    Ok(found)
}

/// The bytes of a field from its text (`ima_show_template_data_ascii`).
fn read(field: Field, text: &[u8]) -> Result<Vec<u8>, FieldError> {
    let wrong = || FieldError::Text(field);
    let string = || std::str::from_utf8(text).map_err(|_| wrong());
    let number = || string()?.parse::<u32>().map_err(|_| wrong());
    match field {
        Field::Name => Ok(text.to_vec()),
        Field::NameNg => Ok([text, b"\0"].concat()),
        Field::Digest => hex::decode(text).map_err(|_| wrong()),
        Field::ModsigDigest if text.is_empty() => Ok(Vec::new()),
        Field::DigestNg | Field::DigestNgv2 | Field::ModsigDigest => {
            let (head, digest) = string()?.rsplit_once(':').ok_or_else(wrong)?;
            let (prefix, algorithm) = prefixed(field, head).ok_or_else(wrong)?;
            let bytes = hex::decode(digest).map_err(|_| wrong())?;
            let digest = FileDigest { prefix, algorithm: algorithm.to_owned(), bytes };
            Ok(digest.checked(field)?.write(field))
        }
        Field::Uid | Field::Gid => Ok(number()?.to_le_bytes().to_vec()),
        Field::Mode => {
            let mode = u16::try_from(number()?).map_err(|_| wrong())?;
            Ok(mode.to_le_bytes().to_vec())
        }
        Field::XattrNames if text.is_empty() => Ok(Vec::new()),
        Field::XattrNames => Ok([text, b"\0"].concat()),
        Field::Signature
        | Field::Modsig
        | Field::Buffer
        | Field::EvmSignature
        | Field::XattrLengths
        | Field::XattrValues => hex::decode(text).map_err(|_| wrong()),
    }
}
