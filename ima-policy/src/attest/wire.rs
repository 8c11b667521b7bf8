//! Challenge and evidence over a connection: two messages, one way each.
//!
//! Nothing is secret in them but what the device has run, and nothing is authenticated but by
//! the TPM's signature: who stands between can keep an answer back, and no more. Who may ask
//! is decided by the address that is listened on.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{Challenge, ChallengeError, MAX_CHALLENGE};

/// A connection that ends at a time, however slowly the other side reads or writes.
#[derive(Debug)]
pub struct Deadline {
    stream: TcpStream,
    end: Instant,
}

/// What is wrong with a question.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The connection.
    #[error("the connection: {0}")]
    Io(#[from] io::Error),
    /// No challenge.
    #[error(transparent)]
    Challenge(#[from] ChallengeError),
}

impl Deadline {
    /// Lets a connection live for so long.
    #[must_use]
    pub fn new(stream: TcpStream, limit: Duration) -> Self {
        Self { stream, end: Instant::now() + limit }
    }

    /// Lets it live for so long from now on.
    pub fn restart(&mut self, limit: Duration) {
        self.end = Instant::now() + limit;
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it took too long"));
        }
        Ok(left)
    }
}

/// A time-out of the socket says `WouldBlock`, which tells nobody anything.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "it took too long"),
        _ => error,
    }
}

impl Read for Deadline {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer).map_err(timed_out)
    }
}

impl Write for Deadline {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Sends a challenge; the answer can be read from what comes back.
///
/// # Errors
/// The connection's.
pub fn ask(mut connection: Deadline, challenge: &Challenge) -> Result<Deadline, WireError> {
    connection.write_all(&challenge.to_json()?)?;
    Ok(connection)
}

/// Reads a challenge of at most [`MAX_CHALLENGE`] bytes; the answer can be written to the same
/// connection.
///
/// # Errors
/// [`WireError`].
pub fn question(connection: &mut Deadline) -> Result<Challenge, WireError> {
    let mut line = Vec::new();
    BufReader::with_capacity(MAX_CHALLENGE, connection)
        .take(MAX_CHALLENGE as u64 + 1)
        .read_until(b'\n', &mut line)?;
    Ok(Challenge::from_json(&line)?)
}
