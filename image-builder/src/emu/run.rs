//! `image-builder run`: one boot of an image on the emulated board.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use emulated_board::{
    Board, BoardError, ConsoleError, Ended, Network, SoftTpm, TpmError, TpmLink, stages::stages,
};

use crate::image::tamper::{Signing, Tamper, TamperError, variant};

use super::{
    card::{self, Card, CardError},
    terminal::{self, Left, Raw},
};

/// Boots an image on its board, emulated, with a software TPM.
///
/// The image itself stays as it is: the board gets a copy of it as its SD card, and
/// a TPM of its own. Both are kept, so that the next run is the next boot of the
/// same device. The console is standard input and output; Ctrl-A x cuts the power.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The SD card image, as `image-builder build` makes it
    #[arg(long, value_name = "FILE")]
    pub image: PathBuf,
    /// The card in the slot; copied from the image when it is not there [default:
    /// card.img in IMAGE.run]
    #[arg(long, value_name = "FILE")]
    pub drive: Option<PathBuf>,
    /// The TPM's state directory, made when it is not there; `none` for a board
    /// without a TPM [default: tpm in IMAGE.run]
    #[arg(long, value_name = "DIR|none")]
    pub tpm: Option<PathBuf>,
    /// Append these words to the card's kernel command line, and sign again, as
    /// someone with the key would; the next run without this takes them away, unless
    /// --drive names the card
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub append_tamper: Option<String>,
    /// Begin with a new device: remove the default card and TPM of this image first
    #[arg(long, conflicts_with_all = ["drive", "tpm"])]
    pub fresh: bool,
    /// Plug its Ethernet into a network of its own, from which nothing outside is reached:
    /// connections to the address that is printed, on this machine alone, arrive at this
    /// TCP port of the board (22 for SSH)
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub forward: Option<u16>,
    /// Where the logs go [default: logs in IMAGE.run]
    #[arg(long, value_name = "DIR")]
    pub logs: Option<PathBuf>,
    /// Do not read the keyboard: end when the console shows this regular expression
    #[arg(long, value_name = "PATTERN")]
    pub until: Option<String>,
    /// How long --until may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300, requires = "until")]
    pub timeout: u64,
}

/// Why a run could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The image or the card cannot be used.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The card's boot files cannot be changed.
    #[error(transparent)]
    Tamper(#[from] TamperError),
    /// Changed boot files have to be signed.
    #[error("--append-tamper needs the signing key of the image; run `image-builder build` first")]
    NoKey,
    /// The TPM cannot be used.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The board failed.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The console failed.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The user's terminal failed.
    #[error("cannot use this terminal as the board's console: {0}; try --until PATTERN")]
    Terminal(#[source] io::Error),
    /// An old card or TPM could not be removed.
    #[error("cannot remove {path}: {source}")]
    Remove {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The console showed what `--until` asked for; the power was cut then.
    Found,
    /// It did not, for this reason.
    NotFound(String),
    /// The board went off by itself.
    Ended(Ended),
    /// The user cut the power.
    Cut,
}

/// The device a run uses, next to its image unless the user says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The card's image.
    pub drive: PathBuf,
    /// The TPM's state, or none.
    pub tpm: Option<PathBuf>,
    /// The logs.
    pub logs: PathBuf,
}

impl Device {
    /// Where the parts lie.
    #[must_use]
    pub fn of(args: &RunArgs) -> Self {
        let mut own = args.image.clone().into_os_string();
        own.push(".run");
        let own = PathBuf::from(own);
        let or =
            |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| own.join(name));
        let tpm = or(&args.tpm, "tpm");
        Self {
            drive: or(&args.drive, "card.img"),
            tpm: (tpm != Path::new("none")).then_some(tpm),
            logs: or(&args.logs, "logs"),
        }
    }

    fn remove(&self) -> Result<(), RunError> {
        let check = |path: &Path, result: io::Result<()>| match result {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RunError::Remove { path: path.to_owned(), source })
            }
            _ => Ok(()),
        };
        check(&self.drive, fs::remove_file(&self.drive))?;
        self.tpm.as_ref().map_or(Ok(()), |tpm| check(tpm, fs::remove_dir_all(tpm)))
    }

    /// Puts card and TPM together; makes what is not there yet.
    fn assemble(
        &self,
        args: &RunArgs,
        signing: Option<&Signing>,
        emulator: Option<&Path>,
    ) -> Result<(Card, TpmLink), RunError> {
        // Checked first: a file that is no image is not copied.
        let image = Card::open(&args.image)?;
        if !self.drive.exists() {
            card::copy(&args.image, &self.drive)?;
        }
        let mut card = Card::open(&self.drive)?;
        match &args.append_tamper {
            Some(words) => {
                let signing = signing.ok_or(RunError::NoKey)?;
                if args.drive.is_none() {
                    card.take_boot_files_of(&image)?;
                }
                let words = Tamper::CommandLine(words.clone());
                variant(&self.drive, &words, signing, &self.drive)?;
                card = Card::open(&self.drive)?;
            }
            // A run's own card follows its image, which may have been built again.
            None if args.drive.is_none() => card.take_boot_files_of(&image)?,
            None => {}
        }
        let tpm = match &self.tpm {
            Some(dir) => image.tpm_place()?.link(SoftTpm::open_or_create(dir)?, emulator)?,
            None => TpmLink::None,
        };
        Ok((card, tpm))
    }
}

/// Runs the image until its board goes off, the user cuts the power, or the console
/// shows what was asked for.
///
/// `signing` is needed for `--append-tamper` alone, `emulator` (our QEMU) for a board with
/// its TPM on SPI. A Raspberry Pi runs on it where it is there: its watchdog counts.
///
/// # Errors
/// [`RunError`] when the boot cannot be started or followed.
pub fn run(
    args: &RunArgs,
    signing: Option<&Signing>,
    emulator: Option<&Path>,
) -> Result<Outcome, RunError> {
    let device = Device::of(args);
    if args.fresh {
        device.remove()?;
    }
    let (card, tpm) = device.assemble(args, signing, emulator)?;
    let (screen, off) = terminal::screen().map_err(RunError::Terminal)?;
    let mut config = card.board(tpm, &device.logs, Some(screen))?;
    config.emulator = emulator.map(Path::to_owned);
    config.network = args.forward.map_or(Network::None, Network::Forward);
    let mut board = Board::power_on(config)?;
    if let (Some(port), Some(address)) = (args.forward, board.forwarded()) {
        let _ = writeln!(io::stderr(), "{address} is port {port} of the board");
    }
    match &args.until {
        Some(pattern) => {
            let limit = Duration::from_secs(args.timeout);
            let found = board.console.wait(pattern, limit);
            board.cut_power();
            report(&board, &device);
            match found {
                Ok(_) => Ok(Outcome::Found),
                Err(e @ (ConsoleError::Timeout { .. } | ConsoleError::Off { .. })) => {
                    Ok(Outcome::NotFound(e.to_string()))
                }
                Err(e) => Err(e.into()),
            }
        }
        None => {
            let keyboard = board.console.keyboard()?;
            let left = {
                let _raw = Raw::enter().map_err(RunError::Terminal)?;
                let _ = writeln!(io::stderr(), "{}\r", terminal::HELP);
                terminal::follow_keyboard(&off, keyboard).map_err(RunError::Terminal)?
            };
            let outcome = match left {
                Left::Cut => {
                    board.cut_power();
                    Outcome::Cut
                }
                Left::Off => Outcome::Ended(board.wait_off(Duration::from_secs(10))?),
            };
            report(&board, &device);
            Ok(outcome)
        }
    }
}

/// Stages and the places of logs, on standard error.
fn report(board: &Board, device: &Device) {
    let mut lines = board.console.lines();
    lines.extend(board.secure_console.lines());
    let mut text = String::from("\n");
    for stage in stages(&lines) {
        let (at, took) = (stage.at.as_secs_f64(), stage.took.as_secs_f64());
        text.push_str(&format!("{:<18} at {at:8.3} s, took {took:7.3} s\n", stage.name));
    }
    text.push_str(&format!(
        "{} TPM commands; logs in {}; card {}\n",
        board.wire.exchanges().len(),
        device.logs.display(),
        device.drive.display()
    ));
    // Standard error may have been closed; the run itself is done.
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        run: RunArgs,
    }

    fn device(args: &[&str]) -> Device {
        let args = [&["run"], args].concat();
        Device::of(&Cli::try_parse_from(args).unwrap().run)
    }

    #[test]
    fn a_device_lies_next_to_its_image_unless_told_otherwise() {
        let default = device(&["--image", "out/pi.img"]);
        assert_eq!(default.drive, Path::new("out/pi.img.run/card.img"));
        assert_eq!(default.tpm.as_deref(), Some(Path::new("out/pi.img.run/tpm")));
        assert_eq!(default.logs, Path::new("out/pi.img.run/logs"));
        assert_eq!(device(&["--image", "i", "--tpm", "none"]).tpm, None);
        let told = device(&["--image", "i", "--tpm", "t", "--drive", "d", "--logs", "l"]);
        assert_eq!((told.drive, told.tpm), ("d".into(), Some("t".into())));
    }

    #[test]
    fn contradicting_options_are_refused() {
        let refused: [&[&str]; 4] = [
            &["--image", "i", "--fresh", "--drive", "d"],
            &["--image", "i", "--timeout", "3"],
            &["--until", "x"],
            &["--image", "i", "--forward", "0"],
        ];
        for args in refused {
            assert!(Cli::try_parse_from([&["run"], args].concat()).is_err(), "{args:?}");
        }
    }

    #[test]
    fn a_file_that_is_no_image_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("pi.img");
        fs::write(&image, b"no image").unwrap();
        let args = ["run", "--image", image.to_str().unwrap()];
        let error = run(&Cli::try_parse_from(args).unwrap().run, None, None).unwrap_err();
        assert!(error.to_string().contains("no SD card image"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
