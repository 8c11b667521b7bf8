//! The board: power on, power off, power cut.

mod arguments;
mod spi;

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{
    console::{Console, ConsoleError, Secret},
    process::{self, Owned, ProcessError, Streams},
    qmp::Events,
    tpm::{RunningTpm, SoftTpm, TpmError},
    wire::{Capture, Interposer, Proxy, WireError},
};

pub use arguments::VIRT;
pub use spi::{BitErrors, ChipSelect, SpiBehaviour, SpiTpm};

/// How long QEMU may take to open its channels.
const OPENED: u16 = 30_000;

/// Why a board could not be powered on.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// A program is missing or does not start.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The TPM does not start.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The relay to the TPM cannot be set up.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The console failed, or what was waited for did not come.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// A file the board needs is not there.
    #[error("{what} {path} cannot be read: {source}")]
    File {
        /// Which part of the board.
        what: &'static str,
        /// The file.
        path: String,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A card QEMU would refuse.
    #[error(
        "the SD card image {path} has {size} bytes; QEMU's card takes a power of two, 1 MiB or more"
    )]
    CardSize {
        /// The image.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// Another board has this card.
    #[error("the SD card image {path} is in use by another run; end that run, or copy the image")]
    CardInUse {
        /// The image.
        path: String,
    },
    /// QEMU ended before it had opened its channels, or did not open them.
    #[error("QEMU did not start the board: {0}")]
    Refused(String),
    /// A directory, socket or pipe of ours could not be made.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The board did not go off in time.
    #[error("the board is still on after {} s; log {log}", limit.as_secs())]
    StillOn {
        /// How long was waited.
        limit: Duration,
        /// The console's log file.
        log: String,
    },
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> BoardError {
    move |source| BoardError::System { action, source }
}

/// The SD slot.
#[derive(Debug, Clone)]
pub enum Disk {
    /// A card: the image is written to.
    Card(PathBuf),
    /// An empty slot.
    None,
}

/// The board's TPM.
#[derive(Debug, Clone)]
pub enum TpmLink {
    /// A TPM on I2C bus 1.
    I2c(SoftTpm),
    /// A TPM on SPI0, which needs an emulator of its own.
    Spi(SpiTpm),
    /// A TPM in the memory of `virt`.
    Mmio(SoftTpm),
    /// Nothing on the header.
    None,
}

impl BoardConfig {
    /// The emulator for this board.
    fn qemu(&self) -> Result<PathBuf, BoardError> {
        let own = match (&self.tpm, &self.machine) {
            (TpmLink::Spi(spi), _) => Some(&spi.qemu),
            (_, Machine::Rpi3 { .. }) => self.emulator.as_ref(),
            (_, Machine::Virt { .. }) => None,
        };
        match own {
            Some(qemu) => {
                readable("the emulator", qemu)?;
                Ok(qemu.clone())
            }
            None => Ok(process::find("qemu-system-aarch64", "qemu-system-arm")?),
        }
    }
}

impl TpmLink {
    fn state(&self) -> Option<&SoftTpm> {
        match self {
            Self::I2c(tpm) | Self::Spi(SpiTpm { tpm, .. }) | Self::Mmio(tpm) => Some(tpm),
            Self::None => None,
        }
    }
}

/// What the VideoCore starts on the ARM cores.
#[derive(Debug, Clone)]
pub enum Firmware {
    /// `armstub8.bin`: TF-A with everything in it, at address 0. All cores enter it in EL3.
    Armstub(PathBuf),
    /// `kernel8.img`: U-Boot alone, at 0x80000. One core enters it in EL2, with the address
    /// of the device tree; the others wait in a stub in the first page until an address
    /// is written into the spin table there.
    Kernel(PathBuf),
}

impl Firmware {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Armstub(path) | Self::Kernel(path) => path,
        }
    }
}

/// Which board, and the firmware it starts with.
#[derive(Debug, Clone)]
pub enum Machine {
    /// A Raspberry Pi 3.
    Rpi3 {
        /// What the VideoCore would start.
        firmware: Firmware,
        /// The device tree VideoCore would load.
        board_dtb: PathBuf,
    },
    /// QEMU's `virt` with a secure world.
    Virt {
        /// The secure flash: TF-A with OP-TEE and U-Boot.
        flash: PathBuf,
    },
}

/// What the guest's time follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Clock {
    /// The host's time.
    #[default]
    Host,
    /// The guest's own work: each instruction that one of its processors executes takes
    /// a nanosecond. What a guest measures is then the same however busy the host is,
    /// except where it waits for something outside, such as its TPM.
    Instructions,
}

/// What the board's Ethernet is plugged into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// Nothing; a Raspberry Pi has no adapter at all then.
    #[default]
    None,
    /// A network of its own, with DHCP, from which nothing outside can be reached. Connections
    /// to [`Board::forwarded`], on this machine's loopback, arrive at this TCP port.
    Forward(u16),
    /// A network of its own, with DHCP. All of what is outside that the board reaches is a TCP
    /// port of this machine's loopback, which it has at [`Network::REACHED`].
    Reach(u16),
}

impl Network {
    /// Where a board has the port that it may reach ([`Network::Reach`]).
    pub const REACHED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 100), 6514);
}

/// What is put on the table before power-on.
#[derive(Debug)]
pub struct BoardConfig {
    /// The board.
    pub machine: Machine,
    /// The SD slot; the disk of `virt`.
    pub disk: Disk,
    /// The TPM header.
    pub tpm: TpmLink,
    /// What the guest's time follows.
    pub clock: Clock,
    /// What its Ethernet is plugged into.
    pub network: Network,
    /// Another emulator than Debian's, for a Raspberry Pi. That of an [`SpiTpm`] goes before.
    pub emulator: Option<PathBuf>,
    /// Where this boot's logs go. Made when missing; older logs are replaced.
    pub logs: PathBuf,
    /// Gets the raw bytes of the main console, for a user who watches.
    pub tap: Option<Tap>,
    /// What the guest prints and no log may hold.
    pub secret: Secret,
}

/// A sink for raw console bytes.
pub struct Tap(pub Box<dyn Write + Send>);

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tap")
    }
}

/// How a board went off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The guest asked for power-off.
    PoweredOff,
    /// The guest asked for a reset. The emulated board stays off after one: its TPM
    /// must be reset with it, and the next power-on does that.
    Reset,
    /// Anything else: QEMU's own words, or its exit status.
    Other(String),
}

/// A board that is on. Dropping it cuts the power.
#[derive(Debug)]
pub struct Board {
    /// serial0, the (first) PL011: TF-A (where there is one), U-Boot, Linux.
    pub console: Console,
    /// serial1, the mini-UART of a Raspberry Pi, the secure PL011 of `virt`: OP-TEE. Silent
    /// where there is none.
    pub secure_console: Console,
    /// What passes between the board and its TPM. Empty without a TPM.
    pub wire: Capture,
    /// Can hold back what passes there. Does nothing by itself.
    pub interposer: Interposer,
    qemu: Owned,
    events: Events,
    proxy: Option<Proxy>,
    tpm: Option<RunningTpm>,
    start: Instant,
    logs: PathBuf,
    forwarded: Option<SocketAddrV4>,
    /// Locks the card's image while the board is on.
    card: Option<Flock<File>>,
    /// Holds the sockets.
    _sockets: tempfile::TempDir,
}

impl Board {
    /// Powers the board on.
    ///
    /// # Errors
    /// [`BoardError`]: a missing program or file, a card of a wrong size, a TPM in
    /// use, or QEMU's own refusal.
    pub fn power_on(config: BoardConfig) -> Result<Self, BoardError> {
        let qemu = config.qemu()?;
        match &config.machine {
            Machine::Rpi3 { firmware, board_dtb } => {
                readable("the firmware", firmware.path())?;
                readable("the board's device tree", board_dtb)?;
            }
            Machine::Virt { flash } => readable("the flash", flash)?,
        }
        let card = match &config.disk {
            Disk::Card(image) => Some(take_card(image)?),
            Disk::None => None,
        };
        let logs = config.logs.clone();
        std::fs::create_dir_all(&logs).map_err(system("make the log directory"))?;
        // A socket address holds 108 bytes: a short path of our own.
        let sockets = tempfile::Builder::new()
            .prefix("board-")
            .tempdir()
            .map_err(system("make a directory for sockets"))?;
        let listen = |name: &str| {
            let path = sockets.path().join(name);
            UnixListener::bind(path).map_err(system("make a socket"))
        };
        let (serial1, qmp) = (listen("serial1")?, listen("qmp")?);
        let start = Instant::now();
        let (wire, interposer) = (Capture::new(start), Interposer::default());
        let (tpm, proxy) = match config.tpm.state() {
            None => (None, None),
            Some(state) => {
                let (running, control) = state.start(&logs.join("swtpm.log"))?;
                let path = sockets.path().join("tpm");
                let proxy = Proxy::start(&path, control, wire.clone(), interposer.clone())?;
                (Some(running), Some(proxy))
            }
        };
        let (near, far) = UnixStream::pair().map_err(system("make the console"))?;
        let said = logs.join("qemu.log");
        let stderr = File::create(&said).map_err(system("write QEMU's log"))?;
        let streams =
            Streams::duplex(OwnedFd::from(far), stderr).map_err(system("make the console"))?;
        let forwarded = match config.network {
            Network::None | Network::Reach(_) => None,
            Network::Forward(_) => Some(free_port().map_err(system("find a free port"))?),
        };
        let args = arguments::arguments(&config, sockets.path(), forwarded);
        let qemu = Owned::start("qemu-system-aarch64", qemu, args, streams)?;
        let accept = |listener| {
            accept_unless_hung_up(listener, &near)
                .map_err(|e| BoardError::Refused(refusal(&said, &e)))
        };
        let secure = accept(&serial1)?;
        let mut events =
            Events::follow(accept(&qmp)?).map_err(|e| BoardError::Refused(refusal(&said, &e)))?;
        let tap = config.tap.map(|t| t.0);
        let console = Console::start(near, start, &logs.join("console.log"), tap, config.secret)?;
        let secure_log = logs.join("secure.log");
        let secure_console = Console::start(secure, start, &secure_log, None, Secret::default())?;
        events.run().map_err(|e| BoardError::Refused(refusal(&said, &e)))?;
        Ok(Self {
            console,
            secure_console,
            wire,
            interposer,
            qemu,
            events,
            proxy,
            tpm,
            start,
            logs,
            forwarded,
            card,
            _sockets: sockets,
        })
    }

    /// How long the board has been on.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.start.elapsed()
    }

    /// Where this boot's logs are.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Where connections to the board's port ([`Network::Forward`]) are taken.
    #[must_use]
    pub fn forwarded(&self) -> Option<SocketAddrV4> {
        self.forwarded
    }

    /// QEMU's process id.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.qemu.id()
    }

    /// Sends a BREAK on the main console's line.
    ///
    /// # Errors
    /// [`BoardError::System`] when the board is off.
    pub fn send_break(&mut self) -> Result<(), BoardError> {
        self.events.send_break(arguments::CONSOLE).map_err(system("send a BREAK"))
    }

    /// Waits until the board goes off by itself.
    ///
    /// # Errors
    /// [`BoardError::StillOn`] after `limit`; the board stays on then.
    pub fn wait_off(&mut self, limit: Duration) -> Result<Ended, BoardError> {
        if !self.console.wait_off(limit) {
            let log = self.console.log().display().to_string();
            return Err(BoardError::StillOn { limit, log });
        }
        let reason = self.events.reason();
        let status = self.qemu.wait(limit);
        self.settle();
        Ok(match reason.as_deref() {
            Some("guest-shutdown") => Ended::PoweredOff,
            Some("guest-reset") => Ended::Reset,
            Some(other) => Ended::Other(other.to_owned()),
            None => Ended::Other(status.map_or_else(|| "unknown".to_owned(), |s| s.to_string())),
        })
    }

    /// Cuts the power. What the guest's card had taken by then is in the image, and
    /// nothing later: QEMU writes through the host's page cache, which stays.
    pub fn cut_power(&mut self) {
        self.qemu.kill();
        let _ = self.console.wait_off(Duration::from_secs(10));
        self.settle();
    }

    /// Pulls the TPM's reset line while the board runs, and lets it have the firmware's
    /// measurements of this boot again: see [`Proxy::reset`]. For figures of what can
    /// be done once per boot.
    ///
    /// # Errors
    /// [`BoardError::Wire`], also without a TPM.
    pub fn reset_tpm(&mut self) -> Result<(), BoardError> {
        let none = || WireError::Reset("this board has none".to_owned());
        Ok(self.proxy.as_mut().ok_or_else(none)?.reset()?)
    }

    /// Changes how a TPM on SPI behaves from now on.
    ///
    /// # Errors
    /// [`BoardError::System`] when the board is off, or has no TPM on SPI.
    pub fn set_spi_behaviour(&mut self, behaviour: &SpiBehaviour) -> Result<(), BoardError> {
        for (name, value) in behaviour.properties() {
            self.events.set(spi::ID, name, &value).map_err(system("set up the TPM"))?;
        }
        Ok(())
    }

    /// Holds the reset line (RST#) of a TPM on SPI low, or lets it go: the TPM then starts
    /// anew, and nothing that was measured is in it. [`Board::reset_tpm`] keeps the
    /// measurements.
    ///
    /// # Errors
    /// [`BoardError::System`] when the board is off, or has no TPM on SPI.
    pub fn hold_tpm_in_reset(&mut self, held: bool) -> Result<(), BoardError> {
        self.events
            .set(spi::ID, "x-in-reset", &held.to_string())
            .map_err(system("pull the TPM's reset line"))
    }

    /// Lets go of the card, lets the TPM end, so that both can be copied, and writes the record of
    /// its commands.
    fn settle(&mut self) {
        drop(self.card.take());
        if let Some(tpm) = self.tpm.take() {
            drop(self.proxy.take());
            tpm.finish();
            let mut text = String::new();
            for exchange in self.wire.exchanges() {
                text.push_str(&exchange.to_string());
                text.push('\n');
            }
            // A log that cannot be written is no reason to stop; the record is here.
            let _ = std::fs::write(self.logs.join("tpm.log"), text);
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.cut_power();
    }
}

fn readable(what: &'static str, path: &Path) -> Result<(), BoardError> {
    File::open(path).map(drop).map_err(|source| BoardError::File {
        what,
        path: path.display().to_string(),
        source,
    })
}

/// A port of the loopback that nobody listens on. QEMU takes it a moment later, and refuses to
/// start if somebody else was faster.
fn free_port() -> io::Result<SocketAddrV4> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// Checks a card's size and takes it. QEMU's card lets others write as well.
fn take_card(image: &Path) -> Result<Flock<File>, BoardError> {
    let path = image.display().to_string();
    let error = |source| BoardError::File { what: "the SD card image", path: path.clone(), source };
    let file = File::options().read(true).write(true).open(image).map_err(error)?;
    let size = file.metadata().map_err(error)?.len();
    if !size.is_power_of_two() || size < 1 << 20 {
        return Err(BoardError::CardSize { path, size });
    }
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
        .map_err(|_| BoardError::CardInUse { path: path.clone() })
}

/// Accepts QEMU's connection, unless QEMU hangs up the console first.
fn accept_unless_hung_up(listener: &UnixListener, console: &UnixStream) -> io::Result<UnixStream> {
    let mut set = [
        PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        // No event asked for: only a hang-up is told.
        PollFd::new(console.as_fd(), PollFlags::empty()),
    ];
    loop {
        match poll(&mut set, PollTimeout::from(OPENED)) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
            Ok(0) => return Err(io::Error::other("it did not open its channels")),
            Ok(_) => break,
        }
    }
    let [listener_ready, _] = set.map(|fd| fd.any().unwrap_or(false));
    if listener_ready {
        Ok(listener.accept()?.0)
    } else {
        Err(io::Error::other("it ended at once"))
    }
}

fn refusal(said: &Path, error: &io::Error) -> String {
    let text = std::fs::read_to_string(said).unwrap_or_default();
    if text.trim().is_empty() { error.to_string() } else { text.trim().to_owned() }
}

#[cfg(test)]
mod tests;
