//! Asking for a secret in the running system: on the terminal without echo, or one
//! line of standard input where that is no terminal.

use nix::sys::termios::{self, LocalFlags, SetArg, Termios};
use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};
use zeroize::Zeroizing;

/// Longest line that is taken, in bytes.
const MAX_LINE: usize = 512;

/// Asks. The answer comes without the end of its line.
///
/// # Errors
/// The terminal's or standard input's; a line that is too long.
pub fn ask(question: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    if !io::stdin().is_terminal() {
        return line(&mut io::stdin().lock());
    }
    let tty = File::options().read(true).write(true).open("/dev/tty")?;
    let mut terminal = &tty;
    let quiet = Quiet::new(&tty)?;
    write!(terminal, "{question}: ")?;
    let answer = line(&mut terminal);
    drop(quiet);
    writeln!(terminal)?;
    answer
}

/// One line, byte by byte: what follows stays where it is, and no buffer keeps a
/// copy.
fn line(from: &mut impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE));
    let mut byte = Zeroizing::new([0]);
    loop {
        match from.read(byte.as_mut_slice()) {
            Ok(0) => return Ok(line),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        match byte.as_slice() {
            b"\n" => return Ok(line),
            _ if line.len() == MAX_LINE => {
                let why = format!("a line of more than {MAX_LINE} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
            }
            other => line.extend_from_slice(other),
        }
    }
}

/// A terminal that does not show what is typed, until it is dropped.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn new(terminal: &'a File) -> io::Result<Self> {
        let before = termios::tcgetattr(terminal)?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO | LocalFlags::ECHONL);
        quiet.local_flags.insert(LocalFlags::ICANON);
        termios::tcsetattr(terminal, SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(self.terminal, SetArg::TCSANOW, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_one_by_one_and_bounded() {
        let mut input: &[u8] = b"first\nsecond";
        assert_eq!(line(&mut input).unwrap().as_slice(), b"first");
        assert_eq!(line(&mut input).unwrap().as_slice(), b"second");
        assert_eq!(line(&mut input).unwrap().as_slice(), b"");
        let long = vec![b'x'; MAX_LINE + 1];
        assert!(line(&mut long.as_slice()).is_err());
        assert_eq!(line(&mut &long[1..]).unwrap().len(), MAX_LINE);
    }
}
