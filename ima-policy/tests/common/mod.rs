//! Measurement lists as a kernel writes them.

#![allow(dead_code)] // No test uses all of it.

pub(crate) mod boot;

use std::fs;
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// A list as the kernel writes it, and the PCRs that it leads to.
#[derive(Clone)]
pub(crate) struct List {
    pub(crate) text: String,
    pub(crate) binary: Vec<u8>,
    pub(crate) sha256: [u8; 32],
    /// What each entry extends the SHA-256 bank with.
    pub(crate) steps: Vec<[u8; 32]>,
    /// Where each entry begins in the binary form.
    pub(crate) starts: Vec<usize>,
}

impl List {
    pub(crate) fn new() -> Self {
        Self {
            text: String::new(),
            binary: Vec::new(),
            sha256: [0; 32],
            steps: Vec::new(),
            starts: Vec::new(),
        }
    }

    /// An entry of a template whose fields are given, as text and as bytes.
    pub(crate) fn add(&mut self, template: &str, fields: &[(String, Vec<u8>)]) {
        let mut data = Vec::new();
        for (_, bytes) in fields {
            data.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
            data.extend(bytes);
        }
        let sha1: [u8; 20] = Sha1::digest(&data).into();
        let texts: Vec<_> = fields.iter().map(|(text, _)| text.as_str()).collect();
        self.starts.push(self.binary.len());
        self.text += &format!("10 {} {template} {}\n", hex::encode(sha1), texts.join(" "));
        self.binary.extend(10_u32.to_le_bytes());
        self.binary.extend(sha1);
        self.binary.extend(u32::try_from(template.len()).unwrap().to_le_bytes());
        self.binary.extend(template.as_bytes());
        self.binary.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        self.binary.extend(&data);
        let step: [u8; 32] = Sha256::digest(&data).into();
        self.sha256 = Sha256::digest([self.sha256, step].concat()).into();
        self.steps.push(step);
    }

    pub(crate) fn file(&mut self, name: &str, content: &[u8], signature: &[u8]) {
        self.add("ima-sig", &[digest(content), text(name), hexed(signature)]);
    }

    pub(crate) fn buffer(&mut self, name: &str, of: &[u8], buffer: &[u8]) {
        self.add("ima-buf", &[digest(of), text(name), hexed(buffer)]);
    }

    pub(crate) fn write(&self, dir: &Path) -> [PathBuf; 2] {
        let [ascii, binary] = ["ascii", "binary"].map(|name| dir.join(name));
        fs::write(&ascii, &self.text).unwrap();
        fs::write(&binary, &self.binary).unwrap();
        [ascii, binary]
    }
}

pub(crate) fn digest(content: &[u8]) -> (String, Vec<u8>) {
    let digest = Sha256::digest(content);
    let bytes = [&b"sha256:\0"[..], digest.as_slice()].concat();
    (format!("sha256:{}", hex::encode(digest)), bytes)
}

pub(crate) fn text(name: &str) -> (String, Vec<u8>) {
    (name.to_owned(), [name.as_bytes(), b"\0"].concat())
}

pub(crate) fn hexed(bytes: &[u8]) -> (String, Vec<u8>) {
    (hex::encode(bytes), bytes.to_vec())
}
