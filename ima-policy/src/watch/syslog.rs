//! Sending to the system's log.
//!
//! A message for `/dev/log` is `<PRIORITY>TAG[PID]: @cee: {...}`: the form that glibc's
//! `syslog` writes (RFC 3164, 4.1), with JSON behind the cookie `@cee:`. systemd-journald and
//! rsyslog both read no RFC 5424 on this socket: they take its head for text. This form reaches
//! both, is passed from the first to the second unchanged, and rsyslog's `mmjsonparse` makes
//! fields of it. There is no time in it: either one knows it better, and in its own time zone.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::report::Report;

/// `LOG_AUTHPRIV` (RFC 5424, 6.2.1, number 10): security, not for everybody's eyes.
const FACILITY: u8 = 10;

/// What the messages are from.
pub const TAG: &str = "ima-policy";

/// For how long a receiver that is busy is waited for.
const WAIT: Duration = Duration::from_millis(200);

/// One message.
#[must_use]
pub fn message(report: &Report, pid: u32) -> String {
    let priority = FACILITY * 8 + report.severity as u8;
    format!("<{priority}>{TAG}[{pid}]: @cee: {}", report.json())
}

/// The log's socket.
#[derive(Debug)]
pub struct Syslog {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Syslog {
    /// The socket of this name. It is connected when something is sent, and again when its
    /// receiver was started anew.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), socket: None }
    }

    /// Sends a message whole, or not at all.
    ///
    /// # Errors
    /// The system's: nobody listens, or is too busy to. It may be tried again.
    pub fn send(&mut self, report: &Report) -> io::Result<()> {
        let message = message(report, std::process::id());
        // A receiver that was started anew leaves a socket behind that leads nowhere.
        for is_old in [true, false] {
            let socket = match self.socket.take() {
                Some(socket) => socket,
                None if is_old => continue,
                None => {
                    let socket = UnixDatagram::unbound()?;
                    socket.set_write_timeout(Some(WAIT))?;
                    socket.connect(&self.path)?;
                    socket
                }
            };
            match socket.send(message.as_bytes()) {
                Ok(_) => {
                    self.socket = Some(socket);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.socket = Some(socket);
                    return Err(error);
                }
                Err(_) if is_old => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::NotConnected.into())
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Event, Severity};
    use super::*;

    #[test]
    fn a_message_has_the_head_that_every_log_takes() {
        let report = Report::new(Event::Module, Severity::Alert).named(b"/m.ko");
        let message = message(&report, 7);
        let json = message.strip_prefix("<81>ima-policy[7]: @cee: ").unwrap();
        let read: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(read["ima"]["event"], "module");
    }

    #[test]
    fn a_receiver_that_is_started_anew_gets_what_follows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let report = Report::new(Event::Start, Severity::Info);
        let mut syslog = Syslog::new(&path);
        assert!(syslog.send(&report).is_err(), "premise: nobody listens");
        for _ in 0..2 {
            let receiver = UnixDatagram::bind(&path).unwrap();
            syslog.send(&report).unwrap();
            let mut bytes = [0; 1024];
            let length = receiver.recv(&mut bytes).unwrap();
            assert!(bytes[..length].starts_with(b"<86>ima-policy["));
            drop(receiver);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_receiver_that_is_busy_is_not_waited_for_forever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::new(&path);
        let report = Report::new(Event::Start, Severity::Info);
        let sent = (0..100_000).take_while(|_| syslog.send(&report).is_ok()).count();
        assert!(sent < 100_000, "premise: its queue is full");
        receiver.recv(&mut [0; 1024]).unwrap();
        syslog.send(&report).unwrap();
    }
}
