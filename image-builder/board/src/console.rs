//! A serial line: everything the board prints, with a time stamp per line, and
//! waiting for what it should print.

mod record;

use std::{
    fs::File,
    io::{self, BufWriter, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use regex::bytes::Regex;

use record::Record;
pub use record::{Found, Line, Secret};

/// Why what was waited for did not come.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The deadline passed.
    #[error(
        "waited {} s for {wanted}, which did not come; log {log}; the last lines:\n{tail}", limit.as_secs()
    )]
    Timeout {
        /// The patterns waited for.
        wanted: String,
        /// How long.
        limit: Duration,
        /// The console's log file.
        log: String,
        /// The last lines printed.
        tail: String,
    },
    /// The board went off first.
    #[error("the board went off before {wanted} came; log {log}; the last lines:\n{tail}")]
    Off {
        /// The patterns waited for.
        wanted: String,
        /// The console's log file.
        log: String,
        /// The last lines printed.
        tail: String,
    },
    /// A pattern is not a regular expression.
    #[error("{0}")]
    Pattern(#[from] regex::Error),
    /// The board does not take input any more.
    #[error("cannot type into the console: {0}")]
    Send(io::Error),
    /// The reader could not be set up.
    #[error("cannot follow the console in {log}: {source}")]
    Start {
        /// The console's log file.
        log: String,
        /// The operating system's reason.
        source: io::Error,
    },
}

#[derive(Debug, Default)]
struct Shared {
    record: Mutex<Record>,
    changed: Condvar,
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One serial line of the board.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
    stream: UnixStream,
    log: PathBuf,
    /// Where the next wait starts to look: behind the last match.
    cursor: usize,
    secret: Secret,
    reader: Option<JoinHandle<()>>,
}

impl Console {
    /// Follows `stream`. Lines go to the file `log`, each with its time since
    /// `start`, and blackened where `secret` matches; raw bytes also to `tap`, for a
    /// user who watches.
    ///
    /// # Errors
    /// [`ConsoleError::Start`] when the log or the thread cannot be made.
    pub fn start(
        stream: UnixStream,
        start: Instant,
        log: &Path,
        tap: Option<Box<dyn Write + Send>>,
        secret: Secret,
    ) -> Result<Self, ConsoleError> {
        let error = |source| ConsoleError::Start { log: log.display().to_string(), source };
        let file = BufWriter::new(File::create(log).map_err(error)?);
        let shared = Arc::new(Shared::default());
        let reader = Reader {
            stream: stream.try_clone().map_err(error)?,
            start,
            shared: Arc::clone(&shared),
            file,
            written: 0,
            tap,
            secret: secret.clone(),
        };
        let reader = thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || reader.run())
            .map_err(error)?;
        let log = log.to_owned();
        Ok(Self { shared, stream, log, cursor: 0, secret, reader: Some(reader) })
    }

    /// Waits until `pattern` (a regular expression) is printed behind the last
    /// match, `limit` from now at most. Output comes in pieces: a pattern with an
    /// open end can match before the rest is there.
    ///
    /// # Errors
    /// [`ConsoleError::Timeout`], or [`ConsoleError::Off`] when the board goes off
    /// without having printed it.
    pub fn wait(&mut self, pattern: &str, limit: Duration) -> Result<Found, ConsoleError> {
        self.wait_any(&[pattern], limit)
    }

    /// Waits until one of `patterns` is printed; of several the one that starts
    /// first.
    ///
    /// # Errors
    /// As [`Console::wait`].
    pub fn wait_any(&mut self, patterns: &[&str], limit: Duration) -> Result<Found, ConsoleError> {
        let compiled = patterns.iter().map(|p| Regex::new(p)).collect::<Result<Vec<_>, _>>()?;
        let deadline = Instant::now() + limit;
        let mut record = self.shared.record();
        loop {
            if let Some((_, end, found)) = record.search(&compiled, self.cursor) {
                self.cursor = end;
                return Ok(found);
            }
            let wanted = patterns.join(" or ");
            let log = self.log.display().to_string();
            if record.closed {
                return Err(ConsoleError::Off { wanted, log, tail: record.tail(&self.secret) });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ConsoleError::Timeout {
                    wanted,
                    limit,
                    log,
                    tail: record.tail(&self.secret),
                });
            }
            let waited = self.shared.changed.wait_timeout(record, left);
            record = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the board has gone off and all it printed has been read. False
    /// when it is still on after `limit`.
    #[must_use]
    pub fn wait_off(&self, limit: Duration) -> bool {
        let record = self.shared.record();
        let waited = self.shared.changed.wait_timeout_while(record, limit, |r| !r.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    /// Types `text` as it is; a line ends with `\r`. What is typed is not logged.
    ///
    /// # Errors
    /// [`ConsoleError::Send`] when the board is off.
    pub fn send(&mut self, text: &str) -> Result<(), ConsoleError> {
        self.stream.write_all(text.as_bytes()).map_err(ConsoleError::Send)
    }

    /// A second handle to type with, for a thread that follows a user's keyboard.
    ///
    /// # Errors
    /// [`ConsoleError::Send`].
    pub fn keyboard(&self) -> Result<impl Write + use<>, ConsoleError> {
        self.stream.try_clone().map_err(ConsoleError::Send)
    }

    /// Unplugs the keyboard: the board meets the end of its input and never gets
    /// a byte again.
    ///
    /// # Errors
    /// [`ConsoleError::Send`].
    pub fn unplug(&mut self) -> Result<(), ConsoleError> {
        self.stream.shutdown(Shutdown::Write).map_err(ConsoleError::Send)
    }

    /// Every line so far.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.shared.record().lines().collect()
    }

    /// The log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// The reading side of a console.
struct Reader {
    stream: UnixStream,
    start: Instant,
    shared: Arc<Shared>,
    file: BufWriter<File>,
    /// Lines that have gone to the file.
    written: usize,
    tap: Option<Box<dyn Write + Send>>,
    secret: Secret,
}

impl Reader {
    fn run(mut self) {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => self.take(buffer.get(..length).unwrap_or_default()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.shared.record().closed = true;
        self.write(true);
        self.shared.changed.notify_all();
    }

    fn take(&mut self, bytes: &[u8]) {
        self.shared.record().feed(bytes, self.start.elapsed());
        self.write(false);
        self.shared.changed.notify_all();
        if let Some(tap) = &mut self.tap {
            // A user who has gone does not stop the board.
            let _ = tap.write_all(bytes).and_then(|()| tap.flush());
        }
    }

    /// Writes the lines that are complete, or all of them at the end.
    fn write(&mut self, all: bool) {
        let new: Vec<Line> = {
            let record = self.shared.record();
            let whole = if all { record.count() } else { record.whole() };
            let new = whole.saturating_sub(self.written);
            record.lines().skip(self.written).take(new).collect()
        };
        self.written += new.len();
        for line in new {
            // Nothing useful can be done about a full disk here; the record in
            // memory is what decides.
            let text = self.secret.blacken(&line.text);
            let _ = writeln!(self.file, "[{:9.3}] {text}", line.at.as_secs_f64());
        }
        let _ = self.file.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn start() -> (Console, UnixStream, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let log = dir.path().join("console.log");
        let secret = Secret::matching("key: ([a-h]+)").unwrap();
        let console = Console::start(near, Instant::now(), &log, None, secret).unwrap();
        (console, far, dir)
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_wait_meets_a_prompt_without_line_end_and_moves_on() {
        let (mut console, mut board, _dir) = start();
        board.write_all(b"noise\r\nenter the key: ").unwrap();
        console.wait("enter the key: $", SOON).unwrap();
        let again = console.wait("enter the key", ms(50)).unwrap_err();
        assert!(matches!(again, ConsoleError::Timeout { .. }), "{again}");
        board.write_all(b"\r\nwrong, enter the key: ").unwrap();
        console.wait("enter the key", SOON).unwrap();
    }

    #[test]
    fn the_first_of_several_patterns_wins_and_groups_are_given() {
        let (mut console, mut board, _dir) = start();
        board.write_all(b"key: abcd-efgh\nlater\n").unwrap();
        let found = console.wait_any(&["later", "key: ([a-h-]+)"], SOON).unwrap();
        assert_eq!((found.which, found.text.as_str()), (1, "abcd-efgh"));
        assert_eq!(console.wait("later", SOON).unwrap().text, "later");
    }

    #[test]
    fn a_board_that_goes_off_ends_the_wait_and_shows_the_last_lines() {
        let (mut console, mut board, _dir) = start();
        board.write_all(b"the last word\n").unwrap();
        drop(board);
        let error = console.wait("never", SOON).unwrap_err();
        assert!(matches!(error, ConsoleError::Off { .. }), "{error}");
        assert!(error.to_string().contains("the last word"), "{error}");
        assert!(console.wait_off(SOON));
        let log = std::fs::read_to_string(console.log()).unwrap();
        assert!(log.ends_with("] the last word\n"), "{log}");
    }

    #[test]
    fn a_secret_is_given_to_who_waits_and_to_no_log_and_no_error() {
        let (mut console, mut board, _dir) = start();
        board.write_all(b"the key: abcdefgh!\n").unwrap();
        drop(board);
        assert_eq!(console.wait("key: ([a-h]+)", SOON).unwrap().text, "abcdefgh");
        let error = console.wait("never", SOON).unwrap_err().to_string();
        let log = std::fs::read_to_string(console.log()).unwrap();
        for text in [error, log] {
            assert!(text.contains("the key: ********!") && !text.contains("abcd"), "{text}");
        }
    }

    #[test]
    fn what_was_printed_before_the_end_is_still_found() {
        let (mut console, mut board, _dir) = start();
        board.write_all(b"good bye").unwrap();
        drop(board);
        console.wait("good bye", SOON).unwrap();
    }

    #[test]
    fn typing_and_unplugging_reach_the_board() {
        let (mut console, mut board, _dir) = start();
        console.send("yes\r").unwrap();
        console.unplug().unwrap();
        let mut typed = String::new();
        board.read_to_string(&mut typed).unwrap();
        assert_eq!(typed, "yes\r");
    }
}
