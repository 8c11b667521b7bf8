//! Child processes that cannot outlive their owner.

use std::{
    ffi::OsStr,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program is in none of the directories of `PATH`.
    #[error(
        "{program} is not in PATH; install the package {package}, or run inside the build root"
    )]
    Missing {
        /// The program looked for.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// The operating system refused to start it, or to give it a thread.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program.
        program: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

/// Finds `program` in `PATH`.
///
/// # Errors
/// [`ProcessError::Missing`], which names the Debian package to install.
pub fn find(program: &'static str, package: &'static str) -> Result<PathBuf, ProcessError> {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| {
            file.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
        .ok_or(ProcessError::Missing { program, package })
}

/// Whether the emulator and the software TPM are there, for tests. Where
/// `MSEC_REQUIRE_TOOLS` is set, as in the build root, they have to be.
#[cfg(test)]
pub(crate) fn has_tools() -> bool {
    let tools = [
        ("qemu-system-aarch64", "qemu-system-arm"),
        ("swtpm", "swtpm"),
        ("swtpm_setup", "swtpm-tools"),
    ];
    let missing = tools.into_iter().find_map(|(tool, package)| find(tool, package).err());
    if let Some(error) = &missing {
        assert!(std::env::var_os("MSEC_REQUIRE_TOOLS").is_none(), "{error}");
        eprintln!("skipped: {error}");
    }
    missing.is_none()
}

/// A running child, killed when this value is dropped.
///
/// The child also dies with this process when that is killed outright: it is
/// started through `setpriv --pdeathsig`. The kernel sends that signal when the
/// *thread* that started the child ends, so a thread of its own starts it and
/// stays until the child has ended.
#[derive(Debug)]
pub struct Owned {
    pid: Pid,
    exited: mpsc::Receiver<std::io::Result<ExitStatus>>,
    status: Option<ExitStatus>,
}

/// The ends of a child's standard streams.
#[derive(Debug)]
pub struct Streams {
    /// Standard input.
    pub stdin: Stdio,
    /// Standard output.
    pub stdout: Stdio,
    /// Standard error.
    pub stderr: Stdio,
}

impl Streams {
    /// Both directions on one stream, as a serial line or a control channel wants
    /// it; errors to `stderr`.
    ///
    /// # Errors
    /// When the stream cannot be duplicated.
    pub fn duplex(stream: OwnedFd, stderr: impl Into<Stdio>) -> std::io::Result<Self> {
        let other = stream.try_clone()?;
        Ok(Self { stdin: stream.into(), stdout: other.into(), stderr: stderr.into() })
    }
}

impl Owned {
    /// Starts `program` (its path from [`find`]) with `args`.
    ///
    /// # Errors
    /// When `setpriv` is missing or the system refuses.
    pub fn start<A: AsRef<OsStr>>(
        name: &'static str,
        program: PathBuf,
        args: impl IntoIterator<Item = A>,
        streams: Streams,
    ) -> Result<Self, ProcessError> {
        let mut command = Command::new(find("setpriv", "util-linux")?);
        command.arg("--pdeathsig").arg("KILL").arg("--").arg(program).args(args);
        command.stdin(streams.stdin).stdout(streams.stdout).stderr(streams.stderr);
        let start = |source| ProcessError::Start { program: name, source };
        let (pid_out, pid_in) = mpsc::sync_channel(1);
        let (status_out, exited) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name(format!("{name} owner"))
            .spawn(move || own(command, &pid_out, &status_out))
            .map_err(start)?;
        let pid = pid_in
            .recv()
            .unwrap_or_else(|_| Err(std::io::Error::other("its thread ended")))
            .map_err(start)?;
        Ok(Self { pid, exited, status: None })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Waits for the end, `limit` at most. `None` when it still runs.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.exited.recv_timeout(limit).ok().and_then(Result::ok);
        }
        self.status
    }

    /// Ends it at once, as a power cut would, and waits until it has gone.
    pub fn kill(&mut self) {
        if self.status.is_some() {
            return;
        }
        // The owner thread has not reaped it, or its status would be here, unless
        // it is on its way: then the signal meets a zombie or nobody.
        if self.wait(Duration::ZERO).is_none() {
            let _ = kill(self.pid, Signal::SIGKILL);
            self.status = self.exited.recv().ok().and_then(Result::ok);
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The owner thread: starts the child, tells its id, waits for its end.
fn own(
    mut command: Command,
    pid: &mpsc::SyncSender<std::io::Result<Pid>>,
    status: &mpsc::SyncSender<std::io::Result<ExitStatus>>,
) {
    let child: Result<Child, _> = command.spawn();
    // The command holds our copies of the child's streams; whoever reads their
    // other end waits for the end of file, so let them go.
    drop(command);
    match child {
        Ok(mut child) => {
            // A Linux process id always fits (PID_MAX_LIMIT is 2^22).
            let id = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
            if pid.send(Ok(id)).is_err() {
                let _ = child.kill();
            }
            let _ = status.send(child.wait());
        }
        Err(error) => {
            let _ = pid.send(Err(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> Streams {
        Streams { stdin: Stdio::null(), stdout: Stdio::null(), stderr: Stdio::null() }
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let text = find("no-such-program-here", "some-package").unwrap_err().to_string();
        assert!(text.contains("no-such-program-here") && text.contains("some-package"), "{text}");
    }

    #[test]
    fn dropping_the_owner_ends_the_child() {
        let sleep = find("sleep", "coreutils").unwrap();
        let child = Owned::start("sleep", sleep, ["600"], quiet()).unwrap();
        let pid = child.pid;
        assert!(kill(pid, None).is_ok(), "it runs");
        drop(child);
        assert!(kill(pid, None).is_err(), "it has gone and was reaped");
    }

    #[test]
    fn an_exit_is_seen_as_an_event() {
        let program = find("false", "coreutils").unwrap();
        let mut child = Owned::start("false", program, [""; 0], quiet()).unwrap();
        let status = child.wait(Duration::from_secs(10)).unwrap();
        assert_eq!(status.code(), Some(1));
    }

    #[test]
    fn the_child_outlives_the_thread_that_asked_for_it() {
        let child = thread::spawn(|| {
            let sleep = find("sleep", "coreutils").unwrap();
            Owned::start("sleep", sleep, ["600"], quiet()).unwrap()
        });
        let mut child = child.join().unwrap();
        assert_eq!(child.wait(Duration::from_millis(200)), None);
    }
}
