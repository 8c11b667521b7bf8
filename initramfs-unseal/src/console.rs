//! The operator's consoles: every line goes to all of them, the recovery key
//! may come from any.

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, FlushArg, LocalFlags, SetArg, SpecialCharacterIndices, Termios};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Where the kernel lists its consoles.
const ACTIVE: &str = "/sys/class/tty/console/active";
/// What every line begins with.
const NAME: &str = "initramfs-unseal";
/// Longest answer that is taken, in bytes. A recovery key has 71.
const MAX_ANSWER: usize = 512;
/// How long a console may take to accept output before the rest of a line is
/// dropped: a terminal with flow control may be stopped for good.
const WRITE_PATIENCE: Duration = Duration::from_secs(2);
/// Value that disables a special character (`_POSIX_VDISABLE`).
const VDISABLE: libc::cc_t = 0;

/// All consoles of the kernel. By default none: nothing is shown, nobody asked.
#[derive(Debug, Default)]
pub struct Consoles(Vec<File>);

/// How the consoles were set; put back when this is dropped, for whoever reads
/// there next.
#[derive(Debug)]
pub struct Settings(Vec<(File, Termios)>);

impl Drop for Settings {
    fn drop(&mut self) {
        for (console, settings) in &self.0 {
            // One that has gone has nothing to be set.
            let _ = termios::tcsetattr(console, SetArg::TCSANOW, settings);
        }
    }
}

/// What came of a question.
#[derive(Debug)]
pub enum Answer {
    /// A line, without its end. Too long ones come as an empty line.
    Line(Zeroizing<Vec<u8>>),
    /// Nobody answered in time.
    TimedOut,
    /// There is no console that could answer.
    NoConsole,
}

impl Consoles {
    /// Opens every console of the kernel that can be opened, else
    /// `/dev/console`. None at all is no error here: the boot goes on by
    /// itself as long as nobody has to be asked.
    #[must_use]
    pub fn open() -> Self {
        let listed = std::fs::read_to_string(ACTIVE).unwrap_or_default();
        let open = |name: &str| {
            let flags = (OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC).bits();
            let path = format!("/dev/{name}");
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).ok()
        };
        let mut files: Vec<File> = listed.split_whitespace().filter_map(open).collect();
        if files.is_empty() {
            files.extend(open("console"));
        }
        Self(files)
    }

    /// How they are set now.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let set =
            |console: &File| Some((console.try_clone().ok()?, termios::tcgetattr(console).ok()?));
        Settings(self.0.iter().filter_map(set).collect())
    }

    /// One line on every console. Errors may quote what stands on the card, so
    /// that nothing in it moves the cursor or begins a line of its own.
    pub fn say(&self, text: &str) {
        let plain: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        self.write(&format!("{NAME}: {plain}\n"));
    }

    /// Overwrites the current line; for progress.
    pub fn progress(&self, text: &str) {
        self.write(&format!("\r{NAME}: {text}"));
    }

    /// Writes text that has its own line ends.
    pub fn write(&self, text: &str) {
        for console in &self.0 {
            let _ = write_bounded(console, text.as_bytes());
        }
    }

    /// The terminal of who called, in the place of consoles.
    ///
    /// # Errors
    /// There is none.
    pub fn terminal() -> io::Result<Self> {
        Ok(Self(vec![OpenOptions::new().write(true).open("/dev/tty")?]))
    }

    /// Asks for a line without echo, on every console at once, for at most
    /// `patience`. What was typed before the question does not count.
    ///
    /// Interrupt, quit and suspend characters are plain characters while the
    /// question stands, and so is end-of-file.
    pub fn ask(&mut self, question: &str, patience: Duration) -> Answer {
        let deadline = Instant::now() + patience;
        for console in &self.0 {
            let _ = without_echo(console);
        }
        self.write(&format!("{NAME}: {question}: "));
        let mut lines: Vec<Line> = self.0.iter().map(|_| Line::new()).collect();
        let answer = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if self.0.is_empty() {
                break Answer::NoConsole;
            }
            if left.is_zero() {
                break Answer::TimedOut;
            }
            match self.readable(left) {
                Ok(ready) => {
                    if let Some(line) = self.take(&ready, &mut lines) {
                        break Answer::Line(line);
                    }
                }
                Err(_) => break Answer::NoConsole,
            }
        };
        self.write("\n");
        answer
    }

    /// Numbers of the consoles that have something to read or have gone.
    fn readable(&self, left: Duration) -> io::Result<Vec<usize>> {
        let mut fds: Vec<PollFd> =
            self.0.iter().map(|c| PollFd::new(c.as_fd(), PollFlags::POLLIN)).collect();
        // Rounded up: a rest below a millisecond must not spin.
        let wait = left.as_millis().saturating_add(1).min(i32::MAX as u128);
        let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, wait) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready = |fd: &PollFd| fd.revents().is_some_and(|r| !r.is_empty());
        Ok(fds.iter().enumerate().filter(|(_, fd)| ready(fd)).map(|(i, _)| i).collect())
    }

    /// Reads what is there; gives the first whole line. Consoles that have
    /// hung up are dropped.
    fn take(&mut self, ready: &[usize], lines: &mut Vec<Line>) -> Option<Zeroizing<Vec<u8>>> {
        let mut gone = Vec::new();
        for &i in ready {
            let (Some(console), Some(line)) = (self.0.get_mut(i), lines.get_mut(i)) else {
                continue;
            };
            match line.read(console) {
                Ok(Some(whole)) => return Some(whole),
                Ok(None) => {}
                Err(_) => gone.push(i),
            }
        }
        for i in gone.into_iter().rev() {
            drop(self.0.remove(i));
            drop(lines.remove(i));
        }
        None
    }
}

/// A line as it comes in.
struct Line {
    bytes: Zeroizing<Vec<u8>>,
    too_long: bool,
}

impl Line {
    fn new() -> Self {
        // Reserved whole: growing would leave copies behind.
        Self { bytes: Zeroizing::new(Vec::with_capacity(MAX_ANSWER)), too_long: false }
    }

    /// # Errors
    /// When the console is gone.
    fn read(&mut self, console: &mut File) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let mut chunk = Zeroizing::new([0u8; 256]);
        loop {
            let count = match console.read(chunk.as_mut_slice()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            if let Some(line) = self.push(chunk.get(..count).unwrap_or_default()) {
                return Ok(Some(line));
            }
        }
    }

    /// Takes bytes up to the end of a line; what follows in the same chunk is
    /// dropped.
    fn push(&mut self, chunk: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        for byte in chunk {
            match byte {
                b'\n' | b'\r' => {
                    let line = std::mem::replace(self, Self::new());
                    return Some(if line.too_long { Self::new().bytes } else { line.bytes });
                }
                _ if self.bytes.len() < MAX_ANSWER => self.bytes.push(*byte),
                _ => self.too_long = true,
            }
        }
        None
    }
}

/// No echo, lines edited by the terminal, no character that signals.
fn without_echo(console: &File) -> nix::Result<()> {
    let mut settings = termios::tcgetattr(console)?;
    settings.local_flags.remove(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ISIG);
    settings.local_flags.insert(LocalFlags::ICANON);
    if let Some(eof) = settings.control_chars.get_mut(SpecialCharacterIndices::VEOF as usize) {
        *eof = VDISABLE;
    }
    termios::tcsetattr(console, SetArg::TCSANOW, &settings)?;
    termios::tcflush(console, FlushArg::TCIFLUSH)
}

fn write_bounded(mut console: &File, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + WRITE_PATIENCE;
    while !bytes.is_empty() {
        match console.write(bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if Instant::now() > deadline {
                    return Err(e);
                }
                let mut fd = [PollFd::new(console.as_fd(), PollFlags::POLLOUT)];
                poll(&mut fd, PollTimeout::from(100u8))?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_put_together_and_bounded() {
        let mut line = Line::new();
        assert!(line.push(b"abc").is_none());
        assert_eq!(line.push(b"def\nrest").unwrap().as_slice(), b"abcdef");
        assert_eq!(line.push(b"\r").unwrap().as_slice(), b"");

        for _ in 0..4096 {
            assert!(line.push(&[b'x'; 256]).is_none());
        }
        assert!(line.bytes.capacity() <= MAX_ANSWER);
        assert_eq!(line.push(b"\n").unwrap().as_slice(), b"", "a megabyte is no answer");
        assert_eq!(line.push(b"next\n").unwrap().as_slice(), b"next");
    }

    #[test]
    fn what_is_said_is_one_line_without_control_characters() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let consoles = Consoles(vec![File::from(write)]);
        consoles.say("unknown field `a\u{1b}[2J\r\ninitramfs-unseal: unlocked\u{9b}1A`");
        drop(consoles);
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        let want = "initramfs-unseal: unknown field `a?[2J??initramfs-unseal: unlocked?1A`\n";
        assert_eq!(text, want);
    }

    #[test]
    fn a_question_without_a_console_ends() {
        let mut none = Consoles(Vec::new());
        assert!(matches!(none.ask("key", Duration::from_secs(60)), Answer::NoConsole));
    }

    #[test]
    fn a_console_gets_its_settings_back() {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let console = File::from(terminal.slave);
        let echoes = |console: &File| {
            let settings = termios::tcgetattr(console).unwrap();
            settings.local_flags.contains(LocalFlags::ECHO)
        };
        assert!(echoes(&console), "premise");
        let mut consoles = Consoles(vec![console.try_clone().unwrap()]);
        let settings = consoles.settings();
        let answer = consoles.ask("key", Duration::from_millis(1));
        assert!(matches!(answer, Answer::TimedOut), "{answer:?}");
        assert!(!echoes(&console), "what is typed after the question is not shown either");
        drop(consoles);
        drop(settings);
        assert!(echoes(&console));
    }

    #[test]
    fn a_console_that_hangs_up_is_dropped_and_a_silent_one_times_out() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let mut consoles = Consoles(vec![File::from(read)]);
        let answer = consoles.ask("key", Duration::from_millis(20));
        assert!(matches!(answer, Answer::TimedOut), "{answer:?}");
        drop(write);
        let answer = consoles.ask("key", Duration::from_secs(60));
        assert!(matches!(answer, Answer::NoConsole), "{answer:?}");
    }
}
