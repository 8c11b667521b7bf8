//! The user's terminal as the board's console.

use std::{
    io::{self, IsTerminal as _, Write},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
};

use emulated_board::Tap;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::termios::{self, SetArg, Termios},
};

/// The key that starts a command to the emulator, as QEMU has it: Ctrl-A.
const ESCAPE: u8 = 0x01;

/// What the escape key can do, for the user.
pub(super) const HELP: &str =
    "Ctrl-A x cuts the power, Ctrl-A Ctrl-A types Ctrl-A, Ctrl-A h shows this";

/// Raw mode: every key goes to the board as it is. The terminal gets its settings
/// back when this is dropped.
#[derive(Debug)]
pub(super) struct Raw(Option<Termios>);

impl Raw {
    /// Does nothing when standard input is no terminal.
    pub(super) fn enter() -> io::Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self(None));
        }
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that has gone needs no settings.
            let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, before);
        }
    }
}

/// The board's output on standard output, and a stream that ends with the board.
pub(super) fn screen() -> io::Result<(Tap, UnixStream)> {
    let (off, held) = UnixStream::pair()?;
    Ok((Tap(Box::new(Screen { _held: held })), off))
}

struct Screen {
    _held: UnixStream,
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// Why the keyboard was let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// The board went off.
    Off,
    /// The user asked for a power cut.
    Cut,
}

/// Passes keys on until the board goes off or the user cuts the power.
pub(super) fn follow_keyboard(off: &UnixStream, mut board: impl Write) -> io::Result<Left> {
    let stdin = io::stdin();
    let mut keys = Keys::default();
    let mut open = true;
    loop {
        let mut fds = vec![off.as_fd()];
        if open {
            fds.push(stdin.as_fd());
        }
        let ready = wait(&fds)?;
        if ready.first() == Some(&true) {
            return Ok(Left::Off);
        }
        if ready.get(1) == Some(&true) {
            let mut buffer = [0; 256];
            // Past std's own buffer, which poll cannot see.
            let length = nix::unistd::read(&stdin, &mut buffer)?;
            // No more keys is no reason to end the boot.
            open = length > 0;
            for &byte in buffer.get(..length).unwrap_or_default() {
                match keys.press(byte) {
                    Key::Type(byte) => board.write_all(&[byte])?,
                    Key::Cut => return Ok(Left::Cut),
                    Key::Help => write!(io::stderr(), "\r\n{HELP}\r\n")?,
                    Key::Nothing => {}
                }
            }
        }
    }
}

fn wait(fds: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
    let mut set: Vec<_> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    loop {
        match poll(&mut set, PollTimeout::NONE) {
            Ok(_) => return Ok(set.iter().map(|fd| fd.any().unwrap_or(true)).collect()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// What a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Type(u8),
    Cut,
    Help,
    Nothing,
}

#[derive(Debug, Default)]
struct Keys {
    escaped: bool,
}

impl Keys {
    fn press(&mut self, byte: u8) -> Key {
        match (std::mem::take(&mut self.escaped), byte) {
            (false, ESCAPE) => {
                self.escaped = true;
                Key::Nothing
            }
            (false, byte) | (true, byte @ ESCAPE) => Key::Type(byte),
            (true, b'x' | b'X') => Key::Cut,
            (true, b'h' | b'H' | b'?') => Key::Help,
            (true, _) => Key::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_starts_a_command_and_typed_twice_is_itself() {
        let cases: [(&[u8], &[Key]); 5] = [
            (b"ab", &[Key::Type(b'a'), Key::Type(b'b')]),
            (b"\x01x", &[Key::Nothing, Key::Cut]),
            (b"\x01\x01x", &[Key::Nothing, Key::Type(1), Key::Type(b'x')]),
            (b"\x01hq", &[Key::Nothing, Key::Help, Key::Type(b'q')]),
            (b"\x01qx", &[Key::Nothing, Key::Nothing, Key::Type(b'x')]),
        ];
        for (bytes, expected) in cases {
            let mut keys = Keys::default();
            let pressed: Vec<_> = bytes.iter().map(|b| keys.press(*b)).collect();
            assert_eq!(pressed, expected, "{bytes:?}");
        }
    }
}
