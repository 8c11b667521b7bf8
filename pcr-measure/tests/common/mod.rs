//! An emulated TPM of a test's own, driven by tpm2-tools.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A fresh TPM; ends with the value.
pub(crate) struct Tpm {
    dir: TempDir,
}

impl Tpm {
    /// Starts one, or says on stderr why the test is skipped. With
    /// `MSEC_REQUIRE_TOOLS` in the environment, as in the build root, nothing is
    /// skipped.
    pub(crate) fn start() -> Option<Self> {
        for tool in ["swtpm", "swtpm_ioctl", "tpm2_policypcr"] {
            if !on_path(tool) {
                assert!(
                    std::env::var_os("MSEC_REQUIRE_TOOLS").is_none(),
                    "{tool} is not installed"
                );
                eprintln!("skipped: {tool} is not installed (swtpm and tpm2-tools are needed)");
                return None;
            }
        }
        let tpm = Self { dir: TempDir::new().unwrap() };
        let state = tpm.path("");
        // The parent of the daemon returns once the sockets are there.
        run(Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "startup-clear", "--daemon"])
            .arg("--tpmstate")
            .arg(format!("dir={}", state.display()))
            .arg("--server")
            .arg(format!("type=unixio,path={}", tpm.path("tpm").display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}", tpm.path("tpm.ctrl").display())));
        Some(tpm)
    }

    /// A file in the test's own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes such a file.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// How tpm2-tools name it.
    pub(crate) fn tcti(&self) -> String {
        format!("swtpm:path={}", self.path("tpm").display())
    }

    /// Runs a tool (arguments separated by blanks) in the directory; its output.
    pub(crate) fn tool(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        command.args(words).current_dir(self.dir.path());
        command.env("TPM2TOOLS_TCTI", self.tcti());
        run(&mut command)
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let stop =
            Command::new("swtpm_ioctl").arg("--unix").arg(self.path("tpm.ctrl")).arg("-s").output();
        if let Err(error) = stop {
            eprintln!("the emulated TPM goes on: {error}");
        }
    }
}

fn on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

/// Runs a command that must succeed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
