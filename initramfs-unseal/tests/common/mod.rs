//! What several tests of this crate need; none of them needs all of it.

#![allow(dead_code)]

pub(crate) mod fake_tpm;
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
    /// Its state, and the directory that tools run in.
    pub(crate) dir: tempfile::TempDir,
}

/// swtpm sends TPM2_Startup(CLEAR) itself.
const STARTED: &str = "not-need-init,startup-clear";

fn spawn(dir: &Path, flags: &str) -> Child {
    let socket = dir.join("tpm");
    let process = alone("swtpm")
        .args(["socket", "--tpm2", "--flags", flags])
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

impl SoftTpm {
    pub(crate) fn start() -> Self {
        Self::start_with(STARTED)
    }

    /// With these `--flags` of swtpm(8).
    pub(crate) fn start_with(flags: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { process: spawn(dir.path(), flags), dir }
    }

    /// The power goes and comes back: no TPM2_Shutdown, then TPM2_Startup(CLEAR).
    pub(crate) fn cut_power(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        for socket in ["tpm", "tpm.ctrl"] {
            let _ = std::fs::remove_file(self.dir.path().join(socket));
        }
        self.process = spawn(self.dir.path(), STARTED);
    }

    /// The directory that its tools run in.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn tcti(&self) -> String {
        format!("swtpm:path={}", self.dir.path().join("tpm").display())
    }

    pub(crate) fn connect(&self) -> Tpm {
        let conf = TctiNameConf::from_str(&self.tcti()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            // A socket has its name before anybody listens.
            match Tpm::connect(conf.clone()) {
                Ok(tpm) => return tpm,
                Err(why) => assert!(Instant::now() < deadline, "{why}"),
            }
            std::thread::yield_now();
        }
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

    pub(crate) fn tool(&self, program: &str, args: &[&str]) -> Output {
        alone(program)
            .args(args)
            .env("TPM2TOOLS_TCTI", self.tcti())
            .current_dir(self.dir.path())
            .output()
            .expect("tpm2-tools is installed")
    }
}

/// A program that inherits no connection: tpm2-tss opens its sockets without
/// `SOCK_CLOEXEC`, and one that lives on in the child of another test's thread is
/// one that swtpm, which serves one at a time, waits for.
fn alone(program: &str) -> Command {
    const CLOSE: &str = r#"for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ "$fd" -le 2 ] || eval "exec $fd>&-"; done; exec "$0" "$@""#;
    let mut command = Command::new("bash");
    command.args(["-c", CLOSE, program]);
    command
}

impl Drop for SoftTpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
