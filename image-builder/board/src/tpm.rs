//! A persistent software TPM 2.0 (swtpm) whose state lies in a directory.

use std::{
    fs,
    io::{Read, Write},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};

use crate::process::{self, Owned, ProcessError, Streams};

/// The file swtpm keeps the permanent state in.
const STATE: &str = "tpm2-00.permall";

/// `CMD_GET_CAPABILITY` of swtpm's control channel (`tpm_ioctl.h`), big-endian. Its
/// answer is eight bytes.
const GET_CAPABILITY: [u8; 4] = [0, 0, 0, 1];

/// How long swtpm may take to answer on its control channel. It takes milliseconds;
/// on a loaded machine some hundred.
const READY: Duration = Duration::from_secs(20);

/// How long swtpm may take to end once its control channel has closed.
const END: Duration = Duration::from_secs(5);

/// Why a software TPM could not be made or started.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// A program is missing or does not start.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A file of the state cannot be read or written.
    #[error("cannot {action} the TPM state {path}: {source}")]
    State {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The directory holds no TPM.
    #[error(
        "{path} holds no TPM state (no {STATE}); give a directory made by this tool, or one that does not exist yet"
    )]
    Empty {
        /// The directory.
        path: String,
    },
    /// `swtpm_setup` failed.
    #[error("swtpm_setup could not make a TPM: {0}")]
    Setup(String),
    /// Another board has this TPM.
    #[error(
        "the TPM state {path} is in use by another run; end that run, or give another directory"
    )]
    InUse {
        /// The state directory.
        path: String,
    },
    /// swtpm ended or did not answer.
    #[error("the software TPM with the state {path} does not answer: {detail}")]
    Silent {
        /// The state directory.
        path: String,
        /// What swtpm wrote, or the reason of the system.
        detail: String,
    },
}

fn state_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> TpmError {
    let path = path.display().to_string();
    move |source| TpmError::State { action, path, source }
}

/// A software TPM's state on disk. No process runs until [`SoftTpm::start`].
#[derive(Debug, Clone)]
pub struct SoftTpm {
    dir: PathBuf,
}

impl SoftTpm {
    /// Makes a new TPM in `dir`, which must not exist. Its PCR banks are `banks`, as
    /// `swtpm_setup --pcr-banks` takes them. Nothing is left when it fails.
    ///
    /// # Errors
    /// [`TpmError`] when `swtpm_setup` is missing or fails.
    pub fn create(dir: &Path, banks: &str) -> Result<Self, TpmError> {
        let setup = process::find("swtpm_setup", "swtpm-tools")?;
        process::find("swtpm", "swtpm")?;
        let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(state_error("make the directory of", dir))?;
        let new = tempfile::Builder::new()
            .prefix(".tpm-")
            .tempdir_in(parent)
            .map_err(state_error("make a directory for", dir))?;
        let run = Command::new(setup)
            .args(["--tpm2", "--overwrite", "--pcr-banks", banks, "--tpmstate"])
            .arg(new.path())
            .stdin(Stdio::null())
            .output()
            .map_err(|source| ProcessError::Start { program: "swtpm_setup", source })?;
        if !run.status.success() || !new.path().join(STATE).is_file() {
            let mut text = String::from_utf8_lossy(&run.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&run.stderr));
            return Err(TpmError::Setup(text.trim().to_owned()));
        }
        // A rename would replace an empty directory without a word.
        if dir.exists() {
            let source = std::io::ErrorKind::AlreadyExists.into();
            return Err(state_error("make", dir)(source));
        }
        fs::rename(new.path(), dir).map_err(state_error("make", dir))?;
        // Its directory has moved away: nothing to remove any more.
        let _ = new.keep();
        Ok(Self { dir: dir.to_owned() })
    }

    /// Opens the TPM whose state lies in `dir`.
    ///
    /// # Errors
    /// [`TpmError::Empty`] when there is none.
    pub fn open(dir: &Path) -> Result<Self, TpmError> {
        if dir.join(STATE).is_file() {
            Ok(Self { dir: dir.to_owned() })
        } else {
            Err(TpmError::Empty { path: dir.display().to_string() })
        }
    }

    /// Opens the TPM in `dir`, or makes one with a SHA-256 bank alone when `dir`
    /// does not exist.
    ///
    /// # Errors
    /// As [`SoftTpm::open`] and [`SoftTpm::create`].
    pub fn open_or_create(dir: &Path) -> Result<Self, TpmError> {
        if dir.exists() { Self::open(dir) } else { Self::create(dir, "sha256") }
    }

    /// Copies the state into `dir`, which must not exist: a second TPM with the
    /// same seeds, NV indices and counters. The original must not be running.
    ///
    /// # Errors
    /// [`TpmError::State`].
    pub fn copy_to(&self, dir: &Path) -> Result<Self, TpmError> {
        fs::create_dir(dir).map_err(state_error("make", dir))?;
        fs::copy(self.dir.join(STATE), dir.join(STATE)).map_err(state_error("copy", dir))?;
        Self::open(dir)
    }

    /// The state directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The permanent state's bytes, to compare one instant with another.
    ///
    /// # Errors
    /// [`TpmError::State`].
    pub fn state(&self) -> Result<Vec<u8>, TpmError> {
        fs::read(self.dir.join(STATE)).map_err(state_error("read", &self.dir))
    }

    /// Powers the TPM on for programs of this host, such as tpm2-tools: its PCRs
    /// start from zero, as at a board's power-on, and nothing has been measured. The
    /// sockets are made in `dir`, whose path must be short.
    ///
    /// # Errors
    /// As [`SoftTpm::start`].
    pub fn serve(&self, dir: &Path) -> Result<ServedTpm, TpmError> {
        let lock = self.lock()?;
        let server = dir.join("tpm");
        // The name tpm2-tss' swtpm TCTI looks for (tcti-swtpm.c).
        let control = dir.join("tpm.ctrl");
        let listen =
            |path: &Path| UnixListener::bind(path).map_err(state_error("make a socket for", path));
        let streams = Streams {
            stdin: Stdio::from(OwnedFd::from(listen(&server)?)),
            stdout: Stdio::from(OwnedFd::from(listen(&control)?)),
            stderr: Stdio::null(),
        };
        let args = [
            "socket".to_owned(),
            "--tpm2".to_owned(),
            "--tpmstate".to_owned(),
            format!("dir={}", self.dir.display()),
            // Connections wait in the listening sockets until swtpm takes them.
            "--server".to_owned(),
            "type=unixio,fd=0".to_owned(),
            "--ctrl".to_owned(),
            "type=unixio,fd=1".to_owned(),
            "--flags".to_owned(),
            "not-need-init,startup-clear".to_owned(),
        ];
        let process = Owned::start("swtpm", process::find("swtpm", "swtpm")?, args, streams)?;
        let tcti = format!("swtpm:path={}", server.display());
        Ok(ServedTpm { tcti, _process: process, _lock: lock })
    }

    /// Takes the state. swtpm takes its own lock late, when QEMU initialises it.
    fn lock(&self) -> Result<Flock<fs::File>, TpmError> {
        let directory = fs::File::open(&self.dir).map_err(state_error("open", &self.dir))?;
        Flock::lock(directory, FlockArg::LockExclusiveNonblock)
            .map_err(|_| TpmError::InUse { path: self.dir.display().to_string() })
    }

    /// Starts the TPM and waits until it answers on its control channel. Its log
    /// goes to `log`.
    ///
    /// # Errors
    /// [`TpmError`] when swtpm is missing, ends at once, or the state is in use.
    pub fn start(&self, log: &Path) -> Result<(RunningTpm, UnixStream), TpmError> {
        let silent =
            |detail: String| TpmError::Silent { detail, path: self.dir.display().to_string() };
        let system = |e: std::io::Error| silent(e.to_string());
        let lock = self.lock()?;
        let (mut control, far) = UnixStream::pair().map_err(system)?;
        let file = fs::File::create(log).map_err(state_error("write the log of", log))?;
        let args = [
            "socket".to_owned(),
            "--tpm2".to_owned(),
            "--terminate".to_owned(),
            "--tpmstate".to_owned(),
            format!("dir={}", self.dir.display()),
            // The control channel is swtpm's standard input: no path, no race.
            "--ctrl".to_owned(),
            "type=unixio,clientfd=0".to_owned(),
        ];
        let swtpm = process::find("swtpm", "swtpm")?;
        let streams = Streams {
            stdin: Stdio::from(OwnedFd::from(far)),
            stdout: Stdio::from(file.try_clone().map_err(system)?),
            stderr: Stdio::from(file),
        };
        let process = Owned::start("swtpm", swtpm, args, streams)?;
        let running = RunningTpm { process, _lock: lock };
        control.set_read_timeout(Some(READY)).map_err(system)?;
        let mut capability = [0; 8];
        control
            .write_all(&GET_CAPABILITY)
            .and_then(|()| control.read_exact(&mut capability))
            .map_err(|e| {
                let said = fs::read_to_string(log).unwrap_or_default();
                silent(if said.trim().is_empty() { e.to_string() } else { said.trim().to_owned() })
            })?;
        control.set_read_timeout(None).map_err(system)?;
        Ok((running, control))
    }
}

/// A TPM that programs of this host use, powered on and started up.
#[derive(Debug)]
pub struct ServedTpm {
    tcti: String,
    _process: Owned,
    _lock: Flock<fs::File>,
}

impl ServedTpm {
    /// What `TPM2TOOLS_TCTI` and `--tcti` take.
    #[must_use]
    pub fn tcti(&self) -> &str {
        &self.tcti
    }
}

/// A running swtpm. It ends by itself when its control channel closes, and with
/// this value in any case.
#[derive(Debug)]
pub struct RunningTpm {
    process: Owned,
    /// On the state directory.
    _lock: Flock<fs::File>,
}

impl RunningTpm {
    /// The process id.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.process.id()
    }

    /// Waits until swtpm has ended because its control channel closed, so that its
    /// state can be copied. Ends it when it does not.
    pub fn finish(mut self) {
        if self.process.wait(END).is_none() {
            self.process.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tpm_is_made_started_copied_and_refused_twice() {
        if !process::has_tools() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let tpm = SoftTpm::create(&dir.path().join("tpm"), "sha256").unwrap();
        let before = tpm.state().unwrap();
        assert!(!before.is_empty());
        let log = dir.path().join("log");
        let (running, control) = tpm.start(&log).unwrap();
        let second = tpm.start(&dir.path().join("log2")).unwrap_err();
        assert!(matches!(second, TpmError::InUse { .. }), "{second}");
        drop(control);
        running.finish();
        let copy = tpm.copy_to(&dir.path().join("copy")).unwrap();
        assert_eq!(copy.state().unwrap(), tpm.state().unwrap());
        let again = SoftTpm::create(&dir.path().join("tpm"), "sha256").unwrap_err();
        assert!(matches!(again, TpmError::State { .. }), "{again}");
    }

    #[test]
    fn no_half_made_tpm_remains() {
        if !process::has_tools() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let error = SoftTpm::create(&dir.path().join("tpm"), "no-such-bank").unwrap_err();
        assert!(matches!(error, TpmError::Setup(_)), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_without_a_tpm_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let text = SoftTpm::open(dir.path()).unwrap_err().to_string();
        assert!(text.contains("holds no TPM state"), "{text}");
    }
}
