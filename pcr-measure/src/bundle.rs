//! The update bundle: a tar archive with a signed list in front.
//!
//! ```text
//! bundle.json                    which image, which version, and the digest of each file
//! bundle.sig                     signature over bundle.json: RSASSA, or ECDSA as DER, SHA-256
//! boot.itb                       the FIT
//! manifest.json                  its boot manifest
//! tpm2-pcr-signature.json        its signed policies, for the binding `signed`
//! armstub8.bin                   the firmware that it expects, where that is to go along
//! ```
//!
//! In this order, so that the signature is verified before anything of the rest is
//! looked at, and nothing needs to be kept in memory but the list. All of it is foreign
//! until then. `tar tf` and `jq` show what is in one.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write};

use crate::digest::Sha256Digest;
use crate::slots::{FIT_MAX, JSON_LEN};
use crate::stub::STUB_LEN;
use crate::text::printable;

/// The schema of the list.
pub const SCHEMA: &str = "msec-boot/update/1";
/// Name of the list.
pub const LIST: &str = "bundle.json";
/// Name of its signature.
pub const SIGNATURE: &str = "bundle.sig";
/// The FIT.
pub const FIT: &str = "boot.itb";
/// The boot manifest.
pub const MANIFEST: &str = "manifest.json";
/// The signed policies.
pub const POLICIES: &str = "tpm2-pcr-signature.json";
/// The firmware of a Raspberry Pi, [`STUB_LEN`] bytes.
pub const FIRMWARE: &str = "armstub8.bin";

/// Longest list, in bytes.
const MAX_LIST: u64 = 16 << 10;
/// Longest signature, in bytes: RSA of 4096 bits.
const MAX_SIGNATURE: u64 = 512;
/// Bytes that are copied at a time.
const BLOCK: usize = 64 << 10;

/// What is wrong with a bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// It cannot be read.
    #[error("the bundle cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Not what comes next in a bundle.
    #[error("this is no update bundle: {want} should come next, and {found} does")]
    Order {
        /// What should.
        want: &'static str,
        /// What does.
        found: String,
    },
    /// A list that is none.
    #[error("the bundle's list cannot be used: {0}")]
    List(String),
    /// Another schema.
    #[error("the bundle has schema {0:?}, this program reads {SCHEMA:?}: update the program first")]
    Schema(String),
    /// More than there is room for.
    #[error("{name} has {size} bytes, and at most {most} have room")]
    TooLarge {
        /// The file.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// The room in bytes.
        most: u64,
    },
    /// Another content than what was signed.
    #[error("{0} is not what was signed: the bundle is damaged or was changed")]
    Digest(&'static str),
    /// It cannot be written where it is to go.
    #[error("{name} cannot be written: {cause}")]
    Write {
        /// The file.
        name: &'static str,
        /// Why.
        cause: io::Error,
    },
}

/// One file of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Sha256Digest,
}

/// What a bundle says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    schema: String,
    /// Name of the image.
    pub image: String,
    /// The board that it is for.
    pub board: String,
    /// Its version, for the binding `signed`.
    pub version: Option<u64>,
    /// The files that follow, in order.
    pub files: Vec<Listed>,
}

impl List {
    /// A list of these files.
    #[must_use]
    pub fn new(image: &str, board: &str, version: Option<u64>, files: &[(&str, &[u8])]) -> Self {
        let listed = |(name, bytes): &(&str, &[u8])| Listed {
            name: (*name).to_owned(),
            size: bytes.len() as u64,
            sha256: Sha256Digest::of(bytes),
        };
        Self {
            schema: SCHEMA.to_owned(),
            image: image.to_owned(),
            board: board.to_owned(),
            version,
            files: files.iter().map(listed).collect(),
        }
    }

    /// The list as it is signed.
    ///
    /// # Errors
    /// None in practice.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// Reads a list: FIT and boot manifest, signed policies and firmware where there are
    /// any, in this order, each as small as its place.
    ///
    /// # Errors
    /// [`BundleError::List`], [`BundleError::Schema`], [`BundleError::TooLarge`].
    pub fn from_json(json: &[u8]) -> Result<Self, BundleError> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }
        let bad = |e: serde_json::Error| BundleError::List(printable(&e.to_string()));
        let head: Head = serde_json::from_slice(json).map_err(bad)?;
        if head.schema != SCHEMA {
            return Err(BundleError::Schema(head.schema));
        }
        let list: Self = serde_json::from_slice(json).map_err(bad)?;
        let names: Vec<_> = list.files.iter().map(|file| file.name.as_str()).collect();
        let mut rest = names.as_slice().strip_prefix(&[FIT, MANIFEST]);
        for option in [POLICIES, FIRMWARE] {
            rest = rest.map(|rest| rest.strip_prefix(&[option]).unwrap_or(rest));
        }
        if rest != Some(&[]) {
            let names = printable(&names.join(", "));
            return Err(BundleError::List(format!("it has the files {names}")));
        }
        for file in &list.files {
            let most = match file.name.as_str() {
                FIT => FIT_MAX,
                FIRMWARE => STUB_LEN as u64,
                _ => JSON_LEN,
            };
            if file.name == FIRMWARE && file.size != most {
                let why = format!("its {FIRMWARE} has {} bytes and not {most}", file.size);
                return Err(BundleError::List(why));
            }
            if file.size > most {
                let (name, size) = (file.name.clone(), file.size);
                return Err(BundleError::TooLarge { name, size, most });
            }
        }
        Ok(list)
    }

    /// A file of the list.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&Listed> {
        self.files.iter().find(|file| file.name == name)
    }
}

/// The head of a bundle, before its signature is verified.
#[derive(Debug)]
pub struct Head {
    /// The signed bytes.
    pub json: Vec<u8>,
    /// The signature.
    pub signature: Vec<u8>,
}

/// A bundle that is being read.
pub struct Entries<'a, R: Read>(tar::Entries<'a, R>);

impl<R: Read> std::fmt::Debug for Entries<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entries")
    }
}

impl<'a, R: Read> Entries<'a, R> {
    /// Begins to read.
    ///
    /// # Errors
    /// [`BundleError::Read`].
    pub fn of(archive: &'a mut tar::Archive<R>) -> Result<Self, BundleError> {
        Ok(Self(archive.entries()?))
    }

    /// Reads list and signature.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn head(&mut self) -> Result<Head, BundleError> {
        let json = self.small(LIST, MAX_LIST)?;
        let signature = self.small(SIGNATURE, MAX_SIGNATURE)?;
        Ok(Head { json, signature })
    }

    fn next(&mut self, want: &'static str) -> Result<tar::Entry<'a, R>, BundleError> {
        let order = |found: String| BundleError::Order { want, found };
        let entry = self.0.next().ok_or_else(|| order("nothing".to_owned()))??;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if name != want || entry.header().entry_type() != tar::EntryType::Regular {
            return Err(order(format!("`{}`", printable(&name))));
        }
        Ok(entry)
    }

    fn small(&mut self, want: &'static str, most: u64) -> Result<Vec<u8>, BundleError> {
        let entry = self.next(want)?;
        let size = entry.size();
        if size > most {
            return Err(BundleError::TooLarge { name: want.to_owned(), size, most });
        }
        let mut bytes = Vec::new();
        entry.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Copies the next file, which has to be this one, to where it goes, block by block.
    /// What was written counts only when this returns: the digest is known at the end.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn copy(
        &mut self,
        list: &List,
        name: &'static str,
        to: &mut impl Write,
    ) -> Result<(), BundleError> {
        let listed = list.file(name).ok_or(BundleError::Digest(name))?;
        let mut entry = self.next(name)?;
        if entry.size() != listed.size {
            return Err(BundleError::Digest(name));
        }
        let (mut hasher, mut block) = (Sha256::new(), vec![0; BLOCK]);
        loop {
            let count = entry.read(&mut block)?;
            let Some(bytes) = block.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
            hasher.update(bytes);
            to.write_all(bytes).map_err(|cause| BundleError::Write { name, cause })?;
        }
        let digest = Sha256Digest::from(<[u8; 32]>::from(hasher.finalize()));
        if digest == listed.sha256 { Ok(()) } else { Err(BundleError::Digest(name)) }
    }
}

/// Writes a bundle. Same content, same bytes.
///
/// # Errors
/// Those of `to`.
pub fn write<W: Write>(
    to: W,
    json: &str,
    signature: &[u8],
    files: &[(&str, &[u8])],
) -> io::Result<W> {
    let mut archive = tar::Builder::new(to);
    let head = [(LIST, json.as_bytes()), (SIGNATURE, signature)];
    for (name, bytes) in head.iter().chain(files) {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        archive.append_data(&mut header, name, *bytes)?;
    }
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [(&str, &[u8]); 3] =
        [(FIT, &[7; 100_000]), (MANIFEST, b"{}"), (POLICIES, b"{\"sha256\": []}")];

    fn bundle(files: &[(&str, &[u8])]) -> Vec<u8> {
        let json = List::new("image", "rpi3", Some(2), files).to_json().unwrap();
        write(Vec::new(), &json, b"signature", files).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<(List, Vec<Vec<u8>>), BundleError> {
        let mut archive = tar::Archive::new(bytes);
        let mut entries = Entries::of(&mut archive)?;
        let head = entries.head()?;
        let list = List::from_json(&head.json)?;
        let mut files = Vec::new();
        for name in [FIT, MANIFEST, POLICIES] {
            if list.file(name).is_some() {
                let mut file = Vec::new();
                entries.copy(&list, name, &mut file)?;
                files.push(file);
            }
        }
        Ok((list, files))
    }

    #[test]
    fn list_and_signature_come_first() {
        let bytes = bundle(&FILES);
        let mut archive = tar::Archive::new(&bytes[..]);
        let head = Entries::of(&mut archive).unwrap().head().unwrap();
        assert_eq!(head.signature, b"signature");
        assert!(List::from_json(&head.json).is_ok());
    }

    #[test]
    fn a_bundle_is_read_as_it_was_written() {
        for count in [2, 3] {
            let bytes = bundle(&FILES[..count]);
            assert_eq!(bytes, bundle(&FILES[..count]), "the same bytes each time");
            let (list, files) = read(&bytes).unwrap();
            assert_eq!((list.image.as_str(), list.version), ("image", Some(2)));
            let want: Vec<_> = FILES[..count].iter().map(|(_, bytes)| bytes.to_vec()).collect();
            assert_eq!(files, want);
        }
    }

    #[test]
    fn every_changed_file_is_told() {
        let bytes = bundle(&FILES);
        for (needle, name) in [(&[7; 8][..], FIT), (b"{}", MANIFEST), (b"{\"sha256\"", POLICIES)] {
            let at = bytes.windows(needle.len()).rposition(|window| window == needle).unwrap();
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let error = read(&changed).unwrap_err();
            assert!(matches!(error, BundleError::Digest(of) if of == name), "{name}: {error}");
        }
    }

    #[test]
    fn whatever_is_cut_off_or_damaged_is_an_error_and_no_panic() {
        let bytes = bundle(&FILES);
        let end = bytes.len() - 1024 - 512;
        for cut in (0..end).step_by(509) {
            assert!(read(&bytes[..cut]).is_err(), "{cut}");
        }
        for at in (0..4096).chain(bytes.len() - 3000..bytes.len()) {
            let mut changed = bytes.clone();
            changed[at] ^= 0xff;
            // Padding, owner and signature may be anything here; the rest is told.
            if let Ok((list, files)) = read(&changed) {
                assert_eq!((list.files.len(), files.len()), (3, 3), "{at}");
            }
        }
    }

    #[test]
    fn lists_of_other_files_sizes_and_schemas_are_refused() {
        let refused = |files: &[(&str, &[u8])]| {
            List::from_json(List::new("i", "b", None, files).to_json().unwrap().as_bytes())
                .unwrap_err()
                .to_string()
        };
        for files in [&[][..], &FILES[..1], &[FILES[1], FILES[0]], &[FILES[0], ("../x", b"")]] {
            assert!(refused(files).contains("it has the files"), "{files:?}");
        }
        let sized = |size| {
            let mut list = List::new("i", "b", None, &FILES);
            list.files[0].size = size;
            List::from_json(list.to_json().unwrap().as_bytes())
        };
        assert!(sized(FIT_MAX).is_ok(), "premise");
        assert!(sized(FIT_MAX + 1).unwrap_err().to_string().contains("67108865 bytes"));
        let stub = vec![1; STUB_LEN];
        let with = |files: &[(&str, &[u8])]| {
            List::from_json(List::new("i", "b", None, files).to_json().unwrap().as_bytes())
        };
        for files in [&FILES[..2], &FILES] {
            assert!(with(&[files, &[(FIRMWARE, &stub[..])]].concat()).is_ok(), "premise");
        }
        let before = [&FILES[..2], &[(FIRMWARE, &stub[..])], &FILES[2..]].concat();
        assert!(refused(&before).contains("it has the files"));
        for stub in [&stub[1..], &[]] {
            let files = [&FILES[..2], &[(FIRMWARE, stub)]].concat();
            assert!(refused(&files).contains("bytes and not 2097152"), "{}", refused(&files));
        }
        let json = List::new("i", "b", None, &FILES).to_json().unwrap();
        assert!(List::from_json(json.as_bytes()).is_ok(), "premise");
        let newer = json.replace("update/1", "update/2");
        let error = List::from_json(newer.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("update the program first"), "{error}");
        let more = json.replace("\"image\"", "\"more\": 1, \"image\"");
        assert!(matches!(List::from_json(more.as_bytes()), Err(BundleError::List(_))));
    }

    #[test]
    fn another_archive_is_told_by_what_comes_first() {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        archive.append_data(&mut header, "README", &b"x"[..]).unwrap();
        let error = read(&archive.into_inner().unwrap()).unwrap_err().to_string();
        assert!(error.contains("bundle.json should come next, and `README` does"), "{error}");
        assert!(read(&[0; 2048]).unwrap_err().to_string().contains("nothing does"));
    }
}
