//! A device with an emulated TPM.

#![allow(dead_code)] // No test uses all of it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::common::boot::Boot;
use crate::common::{List, digest, text};
use crate::tpm::Tpm;

/// A device: its TPM has measured the boot of a manifest, and what its list says. Files of the
/// verifier lie in the same directory.
pub(crate) struct Device {
    pub(crate) tpm: Tpm,
    pub(crate) list: List,
}

/// What a command said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{} {}", self.out, self.err))
    }
}

pub(crate) fn vector(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../pcr-measure/tests/vectors", name].iter().collect()
}

/// The boot of [`MANIFEST`], as U-Boot has logged it.
pub(crate) fn expected_boot() -> Boot {
    Boot::of(&fs::read(vector("uboot-expected.bin")).unwrap())
}

pub(crate) const MANIFEST: &str = "uboot-expected.manifest.json";

impl Device {
    /// A healthy one; `None` where there is no emulated TPM.
    pub(crate) fn new() -> Option<Self> {
        Self::booted(|_, digest| digest.to_owned())
    }

    /// One whose boot was changed: component and digest go in, what was measured comes out.
    pub(crate) fn booted(change: impl Fn(&str, &str) -> String) -> Option<Self> {
        let json: Value = serde_json::from_slice(&fs::read(vector(MANIFEST)).unwrap()).unwrap();
        let mut boot = expected_boot();
        for (event, its) in boot.events.iter_mut().zip(json["events"].as_array().unwrap()) {
            let word = |name: &str| its[name].as_str().unwrap();
            assert_eq!(hex::encode(event.digest), word("digest"));
            let digest = hex::decode(change(word("component"), word("digest"))).unwrap();
            event.digest = digest.try_into().unwrap();
        }
        Self::started(&boot)
    }

    /// One that measured this boot; `firmware.log` is its log.
    pub(crate) fn started(boot: &Boot) -> Option<Self> {
        let mut device = Self { tpm: Tpm::start()?, list: List::new() };
        device.boots(boot);
        for name in ["a", "b", "c"] {
            fs::create_dir_all(device.path("root")).unwrap();
            fs::write(device.path("root").join(name), name).unwrap();
        }
        device.does("reference root --output good.json");
        device.does("attest key --output ak");
        device.does("attest ask --new challenge");
        Some(device)
    }

    /// Firmware and kernel measure.
    fn boots(&mut self, boot: &Boot) {
        self.tpm.write("firmware.log", &boot.log());
        for event in &boot.events {
            let digest = hex::encode(event.digest);
            self.tpm.tool(&format!("tpm2_pcrextend {}:sha256={digest}", event.pcr));
        }
        self.tpm.tool("tpm2_pcrread sha256:0,1,2,3,4,5,6,7,8,9 -o boot");
        let aggregate = Sha256::digest(fs::read(self.path("boot")).unwrap());
        let named = [&b"sha256:\0"[..], aggregate.as_slice()].concat();
        let told = format!("sha256:{}", hex::encode(aggregate));
        self.list.add("ima-ng", &[(told, named), text("boot_aggregate")]);
        self.extend();
        self.runs("/a", b"a");
        self.runs("/b", b"b");
    }

    /// Power off and on.
    pub(crate) fn reboots(&mut self, boot: &Boot) {
        self.tpm.tool("tpm2_shutdown -c");
        self.tpm.tool("swtpm_ioctl --unix tpm.ctrl -i");
        self.tpm.tool("tpm2_startup -c");
        // As the agent keeps it; the machine that the test runs on did not boot.
        let path = self.path("run/boot-time");
        let time: u64 = fs::read_to_string(&path).unwrap().trim().parse().unwrap();
        fs::write(&path, format!("{}\n", time + 60)).unwrap();
        self.list = List::new();
        self.boots(boot);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.tpm.path(name)
    }

    /// The kernel measures a program.
    pub(crate) fn runs(&mut self, name: &str, content: &[u8]) {
        self.list.add("ima-ng", &[digest(content), text(name)]);
        self.extend();
    }

    /// Extends PCR 10 by the last entry.
    pub(crate) fn extend(&self) {
        let step = hex::encode(self.list.steps.last().unwrap());
        self.tpm.tool(&format!("tpm2_pcrextend 10:sha256={step}"));
        fs::write(self.path("list"), &self.list.binary).unwrap();
        fs::write(self.path("list.txt"), &self.list.text).unwrap();
    }

    pub(crate) fn says(&self, line: &str) -> Said {
        let ran = self.command(line).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: ran.status.code().unwrap(), out: text(ran.stdout), err: text(ran.stderr) }
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ima-policy"));
        command.args(line.split_whitespace()).current_dir(self.path(""));
        command.env("TPM2TOOLS_TCTI", self.tpm.tcti());
        command
    }

    pub(crate) fn does(&self, line: &str) -> String {
        let said = self.says(line);
        assert_eq!(said.code, 0, "{line}: {}{}", said.out, said.err);
        said.out
    }

    /// How the device is started to answer.
    pub(crate) fn serve(&self, how: &str) -> String {
        let log = vector("uboot-expected.bin");
        let manifest = vector(MANIFEST);
        format!(
            "attest serve {how} --list list --event-log {} --manifest {}",
            log.display(),
            manifest.display()
        )
    }

    pub(crate) fn answers(&self) -> Vec<u8> {
        self.does(&self.serve("--challenge challenge --output evidence"));
        fs::read(self.path("evidence")).unwrap()
    }

    /// How the verifier judges what lies there.
    pub(crate) fn judge(&self, rest: &str) -> Said {
        let manifest = vector(MANIFEST);
        self.says(&format!(
            "attest ask --ak ak --manifest {} --reference good.json --format json {rest}",
            manifest.display()
        ))
    }

    pub(crate) fn judged(&self) -> Said {
        self.judge("--challenge challenge --evidence evidence")
    }

    pub(crate) fn accepted(&self) -> Value {
        let said = self.judged();
        let told = said.json();
        assert_eq!((said.code, &told["good"]), (0, &Value::Bool(true)), "{}", said.out);
        told
    }

    pub(crate) fn refused(&self, why: &str) -> Value {
        let said = self.judged();
        assert_eq!(said.code, 1, "{why}: {}{}", said.out, said.err);
        let told = said.json();
        assert_eq!(told["good"], false, "{why}");
        told
    }

    /// Puts another list behind the head of the evidence.
    pub(crate) fn with_list(&self, evidence: &[u8], list: &[u8]) {
        let head = evidence.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        fs::write(self.path("evidence"), [&evidence[..head], list].concat()).unwrap();
    }
}
