//! A software TPM of a test's own, with Debian's tpm2-tools beside it.

// Not every file of tests uses all of it.
#![allow(dead_code)]

pub(crate) mod vendor;

use initramfs_unseal::tpm::Tpm;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};
use tss_esapi::tcti_ldr::TctiNameConf;

/// A software TPM of this test's own, gone with it.
pub(crate) struct SoftTpm {
    process: Child,
    dir: tempfile::TempDir,
}

impl SoftTpm {
    /// Starts one.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = Self::run(dir.path());
        Self { process, dir }
    }

    /// A reset: PCRs are as after power on, NV memory is as it was.
    pub(crate) fn reset(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for socket in ["tpm", "tpm.ctrl"] {
            let _ = std::fs::remove_file(self.dir.path().join(socket));
        }
        self.process = Self::run(self.dir.path());
    }

    fn run(dir: &Path) -> Child {
        let socket = dir.join("tpm");
        let process = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", dir.display()))
            .arg("--server")
            .arg(format!("type=unixio,path={}", socket.display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}.ctrl", socket.display()))
            .arg("--log")
            .arg(format!("file={},level=20", dir.join("log").display()))
            .stdin(Stdio::null())
            .spawn()
            .expect("swtpm is installed");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !socket.exists() || !PathBuf::from(format!("{}.ctrl", socket.display())).exists() {
            assert!(Instant::now() < deadline, "swtpm opened no socket");
            std::thread::yield_now();
        }
        process
    }

    /// The directory that its tools run in.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn tcti(&self) -> String {
        format!("swtpm:path={}", self.dir.path().join("tpm").display())
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Tpm {
        Tpm::connect(TctiNameConf::from_str(&self.tcti()).unwrap()).unwrap()
    }

    /// All that crossed the bus since the last call, as lower-case hex.
    pub(crate) fn wire(&self) -> String {
        let log = self.dir.path().join("log");
        let text = std::fs::read_to_string(&log).unwrap();
        std::fs::write(&log, "").unwrap();
        let hex = |line: &str| line.starts_with(' ') && !line.trim().len().is_multiple_of(3);
        let lines = text.lines().filter(|l| hex(l));
        lines
            .flat_map(|l| l.chars().filter(char::is_ascii_hexdigit))
            .collect::<String>()
            .to_lowercase()
    }

    /// Runs a tool.
    pub(crate) fn tool(&self, program: &str, args: &[&str]) -> Output {
        Command::new(program)
            .args(args)
            .env("TPM2TOOLS_TCTI", self.tcti())
            .current_dir(self.dir.path())
            .output()
            .expect("tpm2-tools is installed")
    }
}

impl Drop for SoftTpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
