//! Lists as the kernel writes them, and what a device has that made them.

#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// A list as the kernel writes it, and the PCRs that it leads to.
pub struct List {
    pub text: String,
    pub binary: Vec<u8>,
    pub sha256: [u8; 32],
}

impl List {
    pub fn new() -> Self {
        Self { text: String::new(), binary: Vec::new(), sha256: [0; 32] }
    }

    /// An entry of a template whose fields are given, as text and as bytes.
    pub fn add(&mut self, template: &str, fields: &[(String, Vec<u8>)]) {
        let mut data = Vec::new();
        for (_, bytes) in fields {
            data.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
            data.extend(bytes);
        }
        let sha1: [u8; 20] = Sha1::digest(&data).into();
        let texts: Vec<_> = fields.iter().map(|(text, _)| text.as_str()).collect();
        self.text += &format!("10 {} {template} {}\n", hex::encode(sha1), texts.join(" "));
        self.binary.extend(10_u32.to_le_bytes());
        self.binary.extend(sha1);
        self.binary.extend(u32::try_from(template.len()).unwrap().to_le_bytes());
        self.binary.extend(template.as_bytes());
        self.binary.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        self.binary.extend(&data);
        let step: [u8; 32] = Sha256::digest(&data).into();
        self.sha256 = Sha256::digest([self.sha256, step].concat()).into();
    }

    pub fn file(&mut self, name: &str, content: &[u8], signature: &[u8]) {
        self.add("ima-sig", &[digest(content), text(name), hexed(signature)]);
    }

    pub fn buffer(&mut self, name: &str, of: &[u8], buffer: &[u8]) {
        self.add("ima-buf", &[digest(of), text(name), hexed(buffer)]);
    }

    pub fn write(&self, dir: &Path) -> [PathBuf; 2] {
        let [ascii, binary] = ["ascii", "binary"].map(|name| dir.join(name));
        fs::write(&ascii, &self.text).unwrap();
        fs::write(&binary, &self.binary).unwrap();
        [ascii, binary]
    }
}

pub fn digest(content: &[u8]) -> (String, Vec<u8>) {
    let digest = Sha256::digest(content);
    let bytes = [&b"sha256:\0"[..], digest.as_slice()].concat();
    (format!("sha256:{}", hex::encode(digest)), bytes)
}

pub fn text(name: &str) -> (String, Vec<u8>) {
    (name.to_owned(), [name.as_bytes(), b"\0"].concat())
}

pub fn hexed(bytes: &[u8]) -> (String, Vec<u8>) {
    (hex::encode(bytes), bytes.to_vec())
}

pub fn openssl(args: &[&str]) {
    let ran = Command::new("openssl").args(args).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// A device: a root with signed files, the key, and a reference of the files.
pub struct Made {
    pub dir: tempfile::TempDir,
}

impl Made {
    pub fn new() -> Self {
        let made = Self { dir: tempfile::tempdir().unwrap() };
        let root = made.path("root");
        fs::create_dir(&root).unwrap();
        for name in ["a", "b"] {
            fs::write(Path::new(&root).join(name), name).unwrap();
        }
        for name in ["key", "other"] {
            let (key, public) = (made.path(name), made.path(&format!("{name}.pub")));
            openssl(&[
                "genpkey",
                "-quiet",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-out",
                &key,
            ]);
            openssl(&["pkey", "-in", &key, "-pubout", "-out", &public]);
        }
        made.run(&["sign", &root, "--key", &made.path("key")]);
        made.run(&["reference", &root, "--output", &made.path("reference")]);
        made
    }

    pub fn run(&self, args: &[&str]) {
        let ran = Command::new(env!("CARGO_BIN_EXE_ima-policy")).args(args).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub fn signature(&self, name: &str) -> Vec<u8> {
        let path = Path::new(&self.path("root")).join(name);
        let mut value = vec![0; 1024];
        let file = fs::File::open(path).unwrap();
        let length = rustix::fs::fgetxattr(&file, "security.ima", &mut value[..]).unwrap();
        value.truncate(length);
        value
    }
}

/// The field of a digest of this content.
pub fn digest_of(content: &[u8]) -> Vec<u8> {
    digest(content).1
}
