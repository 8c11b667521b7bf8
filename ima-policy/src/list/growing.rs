//! A list in the binary form that grows while it is read: it comes in pieces that end anywhere,
//! and what is missing of a record comes with a later one.

use pcr_measure::digest::Algorithm;
use pcr_measure::pcr::PcrIndex;

use super::binary::Binary;
use super::template::{MAX_NAME, Template};
use super::{ListError, MAX_DATA, Record};

/// Takes pieces of a list, and gives its records. It keeps the record that is not whole yet,
/// and nothing of those before.
#[derive(Debug)]
pub struct Growing {
    algorithm: Algorithm,
    entry: u64,
    bytes: Vec<u8>,
    /// Bytes of it that have been read.
    read: usize,
    is_over: bool,
}

/// Digest and length of the name: what stands before a name in the template `ima`.
const OLDEST: usize = 20;

impl Growing {
    /// A list whose template digests have this algorithm ([`DEFAULT`](super::DEFAULT) unless
    /// the file's name says otherwise).
    #[must_use]
    pub const fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, entry: 0, bytes: Vec::new(), read: 0, is_over: false }
    }

    /// Goes on with what follows in the list.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.read);
        self.read = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next record; `None` if it is not all there yet.
    ///
    /// # Errors
    /// A record that cannot be read is left out, and the next one follows, as long as its
    /// length is known. Where that is not, nothing follows ([`Self::is_over`]).
    pub fn record(&mut self) -> Result<Option<Record>, ListError> {
        if self.is_over {
            return Ok(None);
        }
        let length = match self.length() {
            Ok(Some(length)) => length,
            Ok(None) => return Ok(None),
            Err(error) => {
                self.is_over = true;
                return Err(error);
            }
        };
        let end = self.read + length;
        let bytes = self.bytes.get(self.read..end).unwrap_or_default();
        let record = Binary::at(bytes, self.algorithm, self.entry).next();
        self.read = end;
        self.entry += 1;
        record.unwrap_or(Err(ListError::Cut(self.entry))).map(Some)
    }

    /// Records so far, those that could not be read included.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entry
    }

    /// Whether a record has begun whose rest is not there.
    #[must_use]
    pub const fn is_within(&self) -> bool {
        self.read < self.bytes.len() && !self.is_over
    }

    /// Whether it cannot be told where the next record begins.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Bytes of the next record; `None` if it is not all there.
    fn length(&self) -> Result<Option<usize>, ListError> {
        let bytes = self.bytes.get(self.read..).unwrap_or_default();
        let number = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let entry = self.entry + 1;
        let wrong = |what, found: u32| ListError::Number { entry, what, found: found.into() };
        let length = |at, what, most| match number(at) {
            Some(found) if found > most => Err(wrong(what, found)),
            found => Ok(found.and_then(|found| usize::try_from(found).ok())),
        };
        match number(0) {
            Some(pcr) if PcrIndex::new(pcr).is_err() => return Err(wrong("its PCR", pcr)),
            _ => {}
        }
        let at = 4 + self.algorithm.size();
        let Some(name) = length(at, "the length of its template's name", MAX_NAME)? else {
            return Ok(None);
        };
        let (from, at) = (at + 4, at + 4 + name);
        let Some(template) = bytes.get(from..at) else { return Ok(None) };
        let (at, most) = match template == Template::IMA.as_bytes() {
            true => (at + OLDEST, 255),
            false => (at, MAX_DATA),
        };
        let Some(data) = length(at, "the length of its data", most)? else { return Ok(None) };
        let whole = at + 4 + data;
        Ok((whole <= bytes.len()).then_some(whole))
    }
}
