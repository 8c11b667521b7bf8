//! The keys that a device record names, on a software TPM, with Debian's tpm2-tools
//! as the second opinion.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use initramfs_unseal::tpm::{AK, Key, Tpm};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tss_esapi::tcti_ldr::TctiNameConf;

/// tpm2-tss opens its sockets without close-on-exec: a TPM that another test starts
/// meanwhile would keep this one's connection open, and the next one waits for good.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A software TPM of this test's own, gone with it.
struct SoftTpm(tempfile::TempDir, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl SoftTpm {
    fn start() -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let tpm = Self(tempfile::tempdir().unwrap(), turn);
        let socket = |name| format!("type=unixio,path={}", tpm.path(name).display());
        // The parent of the daemon returns once the sockets are there.
        let started = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "startup-clear", "--daemon"])
            .arg("--tpmstate")
            .arg(format!("dir={}", tpm.0.path().display()))
            .args(["--server", &socket("tpm"), "--ctrl", &socket("tpm.ctrl")])
            .output()
            .expect("swtpm is installed");
        assert!(started.status.success(), "{started:?}");
        tpm
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn tcti(&self) -> String {
        format!("swtpm:path={}", self.path("tpm").display())
    }

    fn connect(&self) -> Tpm {
        Tpm::connect(TctiNameConf::from_str(&self.tcti()).unwrap()).unwrap()
    }

    fn tool(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        Command::new(words.next().unwrap())
            .args(words)
            .env("TPM2TOOLS_TCTI", self.tcti())
            .current_dir(self.0.path())
            .output()
            .expect("tpm2-tools are installed")
    }

    /// A tool that has to succeed for the test to mean anything.
    fn must(&self, line: &str) {
        let run = self.tool(line);
        assert!(run.status.success(), "{line}: {run:?}");
    }

    /// The key that the tools have written to `name.pub` and `name.name`.
    fn key(&self, name: &str) -> Key {
        let read = |kind| std::fs::read(self.path(&format!("{name}.{kind}"))).unwrap();
        // TPM2B_PUBLIC: a size of two bytes before the TPMT_PUBLIC.
        Key { name: read("name"), public: read("pub")[2..].to_vec() }
    }
}

impl Drop for SoftTpm {
    fn drop(&mut self) {
        let control = self.path("tpm.ctrl").display().to_string();
        let _ = Command::new("swtpm_ioctl").args(["--unix", &control, "-s"]).output();
    }
}

#[test]
fn the_endorsement_key_is_the_one_that_tpm2_createek_makes() {
    let soft = SoftTpm::start();
    let ours = {
        let mut tpm = soft.connect();
        let first = tpm.endorsement_key().unwrap();
        assert_eq!(tpm.endorsement_key().unwrap(), first, "template and seed give it again");
        first
    };
    let left = soft.tool("tpm2_getcap handles-transient");
    assert!(left.status.success() && left.stdout.is_empty(), "it was flushed: {left:?}");
    soft.must("tpm2_createek -Q -G ecc -c ek.ctx");
    soft.must("tpm2_readpublic -Q -c ek.ctx -o ek.pub -n ek.name");
    assert_eq!(ours, soft.key("ek"));
}

#[test]
fn the_attestation_key_is_kept_and_found_again() {
    let soft = SoftTpm::start();
    let ours = soft.connect().attestation_key().unwrap();
    assert_eq!(soft.connect().attestation_key().unwrap(), ours);
    soft.must(&format!("tpm2_readpublic -Q -c {AK:#x} -o ak.pub -n ak.name"));
    assert_eq!(ours, soft.key("ak"));
}

#[test]
fn a_password_on_the_endorsement_hierarchy_is_told_and_nothing_else_breaks() {
    let soft = SoftTpm::start();
    assert!(soft.connect().endorsement_key().is_ok(), "premise");
    soft.must("tpm2_changeauth -c e secret");
    let mut tpm = soft.connect();
    assert!(tpm.endorsement_key().is_err());
    assert!(tpm.attestation_key().is_err());
    assert!(tpm.ensure_srk(0x8100_0001).is_ok(), "the owner's keys need no endorsement");
}

/// Where a TPM's maker puts it, in an index that is larger; and none where there is none.
#[test]
fn the_makers_certificate_is_read_from_its_index() {
    let soft = SoftTpm::start();
    assert_eq!(soft.connect().endorsement_certificate().unwrap(), None);
    let certificate = [&[0x30, 0x82, 0x05, 0xdc][..], &[0x5a; 1500]].concat();
    std::fs::write(soft.path("nv"), [&certificate[..], &[0xff; 96]].concat()).unwrap();
    soft.must("tpm2_nvdefine -Q 0x1c0000a -C o -s 1600 -a ownerread|authread|ownerwrite");
    soft.must("tpm2_nvwrite -Q 0x1c0000a -C o -i nv");
    assert_eq!(soft.connect().endorsement_certificate().unwrap(), Some(certificate));
}

/// Its owner may have it hidden; that is an error, and not the same as none.
#[test]
fn a_certificate_that_may_not_be_read_is_told() {
    let soft = SoftTpm::start();
    soft.must("tpm2_nvdefine -Q 0x1c0000a -C o -s 16 -a ownerread|ownerwrite");
    std::fs::write(soft.path("nv"), [0x30; 16]).unwrap();
    soft.must("tpm2_nvwrite -Q 0x1c0000a -C o -i nv");
    assert!(soft.connect().endorsement_certificate().is_err());
}
