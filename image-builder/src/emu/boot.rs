//! One boot, followed on its console: what is expected next, and what came instead.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use emulated_board::{
    Board, BoardError, ConsoleError, Ended, Line, TpmLink, console::Found, wire::Exchange,
};

use super::{
    card::{Card, CardError, RECOVERY_KEY},
    device::RecoveryKey,
    shell::Shell,
};

/// How long one step of a boot may take. None takes a quarter of it on a machine of
/// its own; two boards on two busy cores come near.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// How long encrypting the root may take. QEMU's card passes every byte through a
/// coroutine: 64 MiB take more than a minute on an idle machine.
const ENCRYPTION: Duration = Duration::from_secs(900);

/// How long a board may take to go off once it has said so.
const OFF: Duration = Duration::from_secs(60);

/// What ends a boot early. Waiting on would only lose time.
const STOPS: [&str; 6] = [
    r"(Boot refused [^\r\n]*)[\r\n]",
    r"(Kernel panic - not syncing[^\r\n]*)[\r\n]",
    r"initramfs-unseal: (powering off: [^\r\n]*)[\r\n]",
    r"initramfs-unseal: (the root stays closed: [^\r\n]*)[\r\n]",
    r"(Failed to boot)",
    r"(### ERROR ### Please RESET the board ###)",
];

/// A boot went another way than expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("boot {boot}: expected {expected}; instead: {instead}; log: {}", log.display())]
pub struct Deviation {
    /// Which boot.
    pub boot: String,
    /// What should have come.
    pub expected: String,
    /// What came.
    pub instead: String,
    /// The console's log.
    pub log: PathBuf,
}

/// Why a boot could not be followed to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// It went another way.
    #[error(transparent)]
    Deviation(#[from] Box<Deviation>),
    /// The card cannot be used.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The board failed.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The console failed.
    #[error(transparent)]
    Console(#[from] ConsoleError),
}

/// A boot under way. Dropping it cuts the power.
#[derive(Debug)]
pub struct Boot {
    name: String,
    /// The board.
    pub board: Board,
}

impl Boot {
    /// Powers a board on with this card and TPM. `name` stands in errors.
    ///
    /// # Errors
    /// [`BootError::Card`].
    pub fn start(name: &str, card: &Card, tpm: TpmLink, logs: &Path) -> Result<Self, BootError> {
        Ok(Self::of(name, card.power_on(tpm, logs, None)?))
    }

    /// Follows a board that is on. `name` stands in errors.
    #[must_use]
    pub fn of(name: &str, board: Board) -> Self {
        Self { name: name.to_owned(), board }
    }

    /// A deviation of this boot.
    #[must_use]
    pub fn deviation(&self, expected: &str, instead: impl Into<String>) -> BootError {
        BootError::Deviation(Box::new(Deviation {
            boot: self.name.clone(),
            expected: expected.to_owned(),
            instead: instead.into(),
            log: self.board.console.log().to_owned(),
        }))
    }

    /// Waits for `pattern`, which means `what` to a person.
    ///
    /// # Errors
    /// [`BootError::Deviation`] when the boot stops, the board goes off, or
    /// [`PATIENCE`] runs out first.
    pub fn expect(&mut self, what: &str, pattern: &str) -> Result<Found, BootError> {
        self.expect_within(what, pattern, PATIENCE)
    }

    fn expect_within(
        &mut self,
        what: &str,
        pattern: &str,
        limit: Duration,
    ) -> Result<Found, BootError> {
        let mut patterns = vec![pattern];
        patterns.extend(STOPS);
        match self.board.console.wait_any(&patterns, limit) {
            Ok(found) if found.which == 0 => Ok(found),
            Ok(stop) => Err(self.deviation(what, stop.text)),
            Err(error @ (ConsoleError::Timeout { .. } | ConsoleError::Off { .. })) => {
                Err(self.deviation(what, error.to_string()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the board goes off, in the way `how`.
    ///
    /// # Errors
    /// [`BootError::Deviation`] when it stays on, or goes off otherwise.
    pub fn expect_off(&mut self, how: &Ended) -> Result<(), BootError> {
        let what = format!("the board goes off ({how:?})");
        match self.board.wait_off(OFF) {
            Ok(ended) if ended == *how => Ok(()),
            Ok(ended) => Err(self.deviation(&what, format!("it went off otherwise: {ended:?}"))),
            Err(BoardError::StillOn { limit, .. }) => {
                Err(self.deviation(&what, format!("it is still on after {} s", limit.as_secs())))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the recovery key, which provisioning shows once.
    ///
    /// # Errors
    /// As [`Boot::expect`].
    pub fn recovery_key(&mut self) -> Result<RecoveryKey, BootError> {
        let found = self.expect_within("the recovery key is shown", RECOVERY_KEY, ENCRYPTION)?;
        Ok(RecoveryKey::new(found.text))
    }

    /// Waits for the prompt and types the recovery key.
    ///
    /// # Errors
    /// As [`Boot::expect`].
    pub fn type_recovery_key(&mut self, key: &RecoveryKey) -> Result<(), BootError> {
        self.expect("the prompt for the recovery key", "enter the recovery key for [^\n]*: $")?;
        Ok(self.board.console.send(&key.typed())?)
    }

    /// Waits for the userland on the encrypted root and takes its console shell.
    ///
    /// # Errors
    /// As [`Boot::expect`].
    pub fn userland(&mut self) -> Result<Shell<'_>, BootError> {
        self.expect(
            "the userland on the encrypted root",
            "msec-boot: userland on /dev/mapper/root reached",
        )?;
        self.expect("the console shell", "Please press Enter to activate this console")?;
        Shell::enter(self)
    }

    /// The console shell again, after something else was typed there.
    ///
    /// # Errors
    /// As [`Boot::expect`].
    pub fn userland_again(&mut self) -> Result<Shell<'_>, BootError> {
        Shell::enter(self)
    }

    /// Every line of both consoles so far, in the order of time.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = self.board.console.lines();
        lines.extend(self.board.secure_console.lines());
        lines.sort_by_key(|line| line.at);
        lines
    }

    /// The TPM commands between two lines of the console, those of IMA apart: the
    /// kernel extends PCR 10 whenever it measures a file. Empty when a line is
    /// missing.
    #[must_use]
    pub fn commands_between(&self, first: &str, last: &str) -> Vec<Exchange> {
        let lines = self.board.console.lines();
        let time = |text: &str| lines.iter().find(|l| l.text.contains(text)).map(|l| l.at);
        let (Some(first), Some(last)) = (time(first), time(last)) else {
            return Vec::new();
        };
        let mut commands = self.board.wire.within(&(first..last));
        commands.retain(|exchange| !exchange.is_ima_extend());
        commands
    }
}
