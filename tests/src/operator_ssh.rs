//! An operator at the other end of the network: an SSH key and OpenSSH's client.

use std::{
    fs,
    io::{self, Read as _},
    net::{SocketAddrV4, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// How long a server is left alone that has not answered.
const PAUSE: Duration = Duration::from_millis(250);

/// Whether an SSH server greets at `address` within `limit`. Until one listens, whoever
/// forwards the connection closes it at once.
#[must_use]
pub fn answers(address: SocketAddrV4, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    let greeted = || {
        let mut stream = TcpStream::connect_timeout(&address.into(), limit)?;
        stream.set_read_timeout(Some(limit))?;
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting)?;
        io::Result::Ok(&greeting == b"SSH-")
    };
    while Instant::now() < end {
        if greeted().is_ok_and(|greeted| greeted) {
            return true;
        }
        std::thread::sleep(PAUSE);
    }
    false
}

/// A port that is lent ([`SshOperator::lend`]).
#[derive(Debug)]
pub struct Lent(Child);

impl Drop for Lent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A key pair in a directory, and the host keys that its client has seen.
#[derive(Debug)]
pub struct SshOperator {
    dir: PathBuf,
}

impl SshOperator {
    /// Makes a key pair in `dir`.
    ///
    /// # Panics
    /// When ssh-keygen fails.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "operator", "-f"])
            .arg(dir.join("operator"))
            .status();
        assert!(made.expect("ssh-keygen").success());
        Self { dir: dir.to_owned() }
    }

    /// The public key's line.
    ///
    /// # Panics
    /// When it has gone.
    #[must_use]
    pub fn public_key(&self) -> String {
        fs::read_to_string(self.dir.join("operator.pub")).expect("the key").trim().to_owned()
    }

    /// A key of the same form that nobody has let in.
    ///
    /// # Panics
    /// When ssh-keygen fails.
    #[must_use]
    pub fn stranger(&self) -> Self {
        let dir = self.dir.join("stranger");
        fs::create_dir_all(&dir).expect("a directory");
        Self::new(&dir)
    }

    /// Runs a command as `user` on the host at `address`.
    ///
    /// # Panics
    /// When ssh cannot be started.
    #[must_use]
    pub fn run(&self, address: SocketAddrV4, user: &str, command: &str) -> Output {
        let mut ssh = self.ssh(address, user);
        ssh.arg(command).output().expect("ssh: openssh-client belongs to the build root")
    }

    /// Copies a file to the home directory of `user`, under the same name.
    ///
    /// # Panics
    /// When it cannot be read, or ssh fails.
    pub fn send(&self, address: SocketAddrV4, user: &str, file: &Path) {
        let name = file.file_name().expect("a file").to_str().expect("an ASCII name");
        let status = self
            .ssh(address, user)
            .arg(format!("cat >{name}"))
            .stdin(fs::File::open(file).expect("the file"))
            .status();
        assert!(status.expect("ssh").success(), "{name} was not taken");
    }

    /// Lets the host reach a port of this machine's loopback at one of its own, until the
    /// returned client is dropped.
    ///
    /// # Panics
    /// When ssh cannot be started.
    #[must_use]
    pub fn lend(&self, address: SocketAddrV4, user: &str, there: u16, here: u16) -> Lent {
        let mut ssh = self.ssh(address, user);
        ssh.args(["-N", "-o", "ExitOnForwardFailure=yes", "-R"])
            .arg(format!("127.0.0.1:{there}:127.0.0.1:{here}"))
            .stdin(Stdio::null());
        Lent(ssh.spawn().expect("ssh: openssh-client belongs to the build root"))
    }

    /// A client that lacks a command. The host's key has to be the one of the first time.
    fn ssh(&self, address: SocketAddrV4, user: &str) -> Command {
        let known = self.dir.join("known_hosts");
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new"])
            // The address is another one at each boot, the host is the same.
            .args(["-o", "HostKeyAlias=board", "-o", "ConnectTimeout=120"])
            .args(["-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"])
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", known.display()))
            .arg("-i")
            .arg(self.dir.join("operator"))
            .args(["-p", &address.port().to_string()])
            .arg(format!("{user}@{}", address.ip()));
        ssh
    }

    /// The host key that the client has seen.
    ///
    /// # Panics
    /// When it has seen none.
    #[must_use]
    pub fn host_key(&self) -> String {
        fs::read_to_string(self.dir.join("known_hosts")).expect("a host key")
    }
}
