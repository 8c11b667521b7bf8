//! A device whose files were signed.

#![allow(dead_code)] // No test uses all of it.

use std::fs;
use std::path::Path;
use std::process::Command;

pub(crate) fn openssl(args: &[&str]) {
    let ran = Command::new("openssl").args(args).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// A device: a root with signed files, the key, and a reference of the files.
pub(crate) struct Made {
    pub(crate) dir: tempfile::TempDir,
}

impl Made {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn run(&self, args: &[&str]) {
        let ran = Command::new(env!("CARGO_BIN_EXE_ima-policy")).args(args).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn signature(&self, name: &str) -> Vec<u8> {
        let path = Path::new(&self.path("root")).join(name);
        let mut value = vec![0; 1024];
        let file = fs::File::open(path).unwrap();
        let length = rustix::fs::fgetxattr(&file, "security.ima", &mut value[..]).unwrap();
        value.truncate(length);
        value
    }
}
