//! What a list teaches a reference.

use super::Reference;
use crate::list::{Field, Record};
use crate::signature::is_certificate;

impl Reference {
    /// Takes over a record of a boot that was good: a file, a key, a buffer. A violation
    /// teaches nothing, nor does a record without name or digest. `false`: nothing was learnt.
    ///
    /// Whether the list is the one that the TPM vouches for is not asked here
    /// ([`crate::list::replay`]).
    pub fn learn(&mut self, record: &Record) -> bool {
        let (Some(name), Some(digest)) = (record.name(), record.file_digest()) else {
            return false;
        };
        if record.is_violation() || digest.is_zero() {
            return false;
        }
        match record.field(Field::Buffer) {
            Some(buffer) if is_certificate(buffer) => self.add_key(name, digest),
            Some(_) => self.add_buffer(name, digest),
            None => self.add_file(name, digest),
        }
        true
    }
}
