//! The binary form: `binary_runtime_measurements` and its siblings for other algorithms
//! (Linux, `ima_measurements_show`). All numbers are little-endian, as on every machine of
//! ours and with `ima_canonical_fmt`.

use std::io::Read;

use pcr_measure::digest::{Algorithm, Digest};
use pcr_measure::pcr::PcrIndex;

use super::template::{Field, MAX_NAME, Template, TemplateError};
use super::{ListError, MAX_DATA, Record};

/// Reads a list record by record. After an error it ends.
#[derive(Debug)]
pub struct Binary<R> {
    reader: R,
    algorithm: Algorithm,
    entry: u64,
    /// The template of the record before: most lists have one.
    template: Option<Template>,
    is_over: bool,
}

impl<R: Read> Binary<R> {
    /// A list whose template digests have this algorithm ([`DEFAULT`](super::DEFAULT) unless
    /// the file's name says otherwise). The reader should be buffered.
    pub const fn new(reader: R, algorithm: Algorithm) -> Self {
        Self::at(reader, algorithm, 0)
    }

    /// The rest of a list, behind so many records.
    pub(super) const fn at(reader: R, algorithm: Algorithm, entry: u64) -> Self {
        Self { reader, algorithm, entry, template: None, is_over: false }
    }

    fn bytes(&mut self, length: u32) -> Result<Vec<u8>, ListError> {
        let mut bytes = Vec::new();
        // It grows by what is there, and not to what is claimed.
        (&mut self.reader).take(length.into()).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == u64::from(length) { Ok(bytes) } else { Err(self.cut()) }
    }

    const fn cut(&self) -> ListError {
        ListError::Cut(self.entry)
    }

    fn number(&mut self) -> Result<u32, ListError> {
        let bytes = self.bytes(4)?;
        let bytes = bytes.first_chunk().ok_or_else(|| self.cut())?;
        Ok(u32::from_le_bytes(*bytes))
    }

    /// A number of bytes, which has a limit.
    fn length(&mut self, what: &'static str, most: u32) -> Result<u32, ListError> {
        match self.number()? {
            length if length <= most => Ok(length),
            found => Err(ListError::Number { entry: self.entry, what, found: found.into() }),
        }
    }

    fn record(&mut self) -> Result<Option<Record>, ListError> {
        let mut first = [0];
        if self.reader.read(&mut first)? == 0 {
            return Ok(None);
        }
        self.entry += 1;
        let entry = self.entry;
        let [a] = first;
        let rest = self.bytes(3)?;
        let [b, c, d] = rest.first_chunk().copied().ok_or_else(|| self.cut())?;
        let pcr = u32::from_le_bytes([a, b, c, d]);
        let pcr = PcrIndex::new(pcr).map_err(|_| ListError::Number {
            entry,
            what: "its PCR",
            found: pcr.into(),
        })?;
        let size = u32::try_from(self.algorithm.size()).unwrap_or(MAX_DATA);
        let digest = Digest::new(self.algorithm, &self.bytes(size)?)?;
        let length = self.length("the length of its template's name", MAX_NAME)?;
        let name = self.bytes(length)?;
        let template = self.template(&name)?;
        let fields = if template.is_ima() { self.oldest()? } else { self.fields(&template)? };
        self.template = Some(template.clone());
        let record = Record::new(pcr, digest, template, fields);
        record.map(Some).map_err(|cause| ListError::Field { entry, cause })
    }

    fn template(&mut self, name: &[u8]) -> Result<Template, ListError> {
        if let Some(before) = self.template.take_if(|its| its.name().as_bytes() == name) {
            return Ok(before);
        }
        let name = String::from_utf8_lossy(name);
        Template::new(&name)
            .map_err(|cause: TemplateError| ListError::Template { entry: self.entry, cause })
    }

    /// The fields of every template but the oldest: the length of all, then each with its own.
    fn fields(&mut self, template: &Template) -> Result<Vec<Vec<u8>>, ListError> {
        let mut left = self.length("the length of its data", MAX_DATA)?;
        let mut fields = Vec::with_capacity(template.fields().len());
        for _ in template.fields() {
            left = left.checked_sub(4).ok_or_else(|| self.wrong(left))?;
            let length = self.number()?;
            left = left.checked_sub(length).ok_or_else(|| self.wrong(length))?;
            fields.push(self.bytes(length)?);
        }
        if left == 0 { Ok(fields) } else { Err(self.wrong(left)) }
    }

    fn wrong(&self, found: u32) -> ListError {
        let what = "the length of a field, which its data contradict,";
        ListError::Number { entry: self.entry, what, found: found.into() }
    }

    /// The two fields of the oldest template: a digest of 20 bytes without its length, and a
    /// name with it.
    fn oldest(&mut self) -> Result<Vec<Vec<u8>>, ListError> {
        let digest = self.bytes(20)?;
        let length = self.length(Field::Name.name(), 255)?;
        Ok(vec![digest, self.bytes(length)?])
    }
}

impl<R: Read> Iterator for Binary<R> {
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
