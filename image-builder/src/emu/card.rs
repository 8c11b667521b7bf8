//! An SD card image, opened as the board's firmware would.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use emulated_board::{
    Board, BoardConfig, BoardError, Clock, Disk, Firmware, Machine, Network, Secret, Tap, TpmLink,
    process::{self, ProcessError},
};
use pcr_measure::manifest::{Manifest, ManifestError};
use pcr_measure::slots::{STATE_FILE, Slots};

use super::place::TpmPlace;
use crate::image::{
    arm_image::ArmImage,
    card as image,
    config_txt::BOARD_DTB,
    fdt::{Fdt, FdtError},
    mbr::Table,
    slots::Content,
};

/// The recovery key as the console shows it once: eight groups of eight letters of
/// systemd's modhex alphabet.
pub const RECOVERY_KEY: &str = "recovery key: ((?:[cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8})";

/// The same key as a QR code, in half blocks or in `##`. A row begins with its quiet
/// zone, which is light, and so does whatever is left of a row that something else
/// was printed into. Nothing else on these consoles draws with such characters.
const QR_ROWS: &str = "[\u{2580}\u{2584}\u{2588}][\u{2580}\u{2584}\u{2588} ]*|##[# ]{4,}";

/// What must not get into a log.
fn secret() -> Secret {
    Secret::matching(&format!("{RECOVERY_KEY}|{QR_ROWS}")).unwrap_or_default()
}

/// Why an image cannot be put into the board.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// The file cannot be read, or is no card of ours.
    #[error("{0}; build one with `image-builder build`")]
    Image(#[from] image::CardError),
    /// A directory, a device, a pipe.
    #[error("{0} is no file, so it is no SD card image; build one with `image-builder build`")]
    NoFile(PathBuf),
    /// A size no card has.
    #[error(
        "{path} is no SD card image: it has {size} bytes, and a card in QEMU has a power of two \
         of 1 MiB or more; build one with `image-builder build`"
    )]
    Size {
        /// The image.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The boot manifest is none.
    #[error("the boot manifest in {path} cannot be used: {source}; build the image again")]
    Manifest {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<ManifestError>,
    },
    /// The image could not be copied.
    #[error("cannot copy {from} to {to}: {detail}")]
    Copy {
        /// The image.
        from: PathBuf,
        /// Where to.
        to: PathBuf,
        /// What went wrong.
        detail: String,
    },
    /// A program is missing.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The firmware could not be laid out for QEMU.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The device tree for the firmware is none.
    #[error(
        "the device tree {BOARD_DTB} in {path} cannot be read: {source}; build the image again"
    )]
    DeviceTree {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        source: FdtError,
    },
    /// An update that would leave what it does not replace.
    #[error(
        "{path} starts by {has}, and the boot files to take start by {other}: that is no update, \
         write the whole image to the card"
    )]
    OtherChain {
        /// The card.
        path: PathBuf,
        /// Its image for the ARM cores.
        has: &'static str,
        /// That of the others.
        other: &'static str,
    },
    /// A board that is not known here, or not the one that the boot files are for.
    #[error("{path} is for the board `{board}`, which is not emulated with these boot files")]
    UnknownBoard {
        /// The image.
        path: PathBuf,
        /// Its manifest's board.
        board: String,
    },
    /// A board that is not emulated.
    #[error(
        "the device tree {BOARD_DTB} in {0} has no TPM where the emulated board can have one: \
         on I2C1 or SPI0"
    )]
    NoPlace(PathBuf),
    /// Debian's QEMU has no TPM on SPI.
    #[error(
        "this card is for a board with its TPM on SPI, which Debian's QEMU has not: build the \
         emulator that has, `image-builder build --only qemu`"
    )]
    NoEmulator,
    /// The board does not start.
    #[error(transparent)]
    Board(#[from] BoardError),
}

/// An image that passed the checks of [`Card::open`].
///
/// Nothing in it is authenticated here: U-Boot checks the signature, the TPM what
/// was measured.
#[derive(Debug, Clone)]
pub struct Card {
    path: PathBuf,
    size: u64,
    table: Table,
    arm_image: ArmImage,
    manifest: Manifest,
}

impl Card {
    /// Opens an image: power of two in size, partition table, FAT boot partition
    /// with firmware and FIT, boot manifest.
    ///
    /// # Errors
    /// [`CardError`], which says what the file lacks.
    pub fn open(path: &Path) -> Result<Self, CardError> {
        if path.exists() && !path.is_file() {
            return Err(CardError::NoFile(path.to_owned()));
        }
        let card = image::Card::open(path)?;
        let (path, size) = (path.to_owned(), card.size);
        if !size.is_power_of_two() || size < 1 << 20 {
            return Err(CardError::Size { path, size });
        }
        let slot = card.slots().good;
        card.fit_of(slot)?;
        let (arm_image, _) = ArmImage::on(&card)?;
        if let Some(name) = arm_image.board_dtb() {
            card.boot_file(name)?;
        }
        let json = card.manifest_of(slot)?;
        let manifest = Manifest::from_json(&json)
            .map_err(|source| CardError::Manifest { path: path.clone(), source: source.into() })?;
        if manifest.board() != arm_image.board().name() {
            let board = manifest.board().to_owned();
            return Err(CardError::UnknownBoard { path, board });
        }
        let table = card.table;
        Ok(Self { path, size, table, arm_image, manifest })
    }

    /// The image.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its partitions.
    #[must_use]
    pub fn table(&self) -> Table {
        self.table
    }

    /// What it says it will measure.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A file of the boot partition.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub fn boot_file(&self, name: &str) -> Result<Vec<u8>, CardError> {
        Ok(image::Card::open(&self.path)?.boot_file(name)?)
    }

    /// The slot that is known to boot.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn good(&self) -> Result<Content, CardError> {
        Ok(image::Card::open(&self.path)?.good()?)
    }

    /// Says which slot boots, as anybody can who has the card.
    ///
    /// # Errors
    /// [`CardError`].
    pub fn set_slots(&mut self, slots: Slots) -> Result<(), CardError> {
        let card = image::Card::open(&self.path)?;
        card.with_boot_files(&[(STATE_FILE, &slots.encode())], &self.path)?;
        *self = Self::open(&self.path)?;
        Ok(())
    }

    /// Where the board that this card is for has its TPM; a Raspberry Pi, by the device
    /// tree that its firmware would load.
    ///
    /// # Errors
    /// [`CardError`] when that cannot be told.
    pub fn tpm_place(&self) -> Result<TpmPlace, CardError> {
        let Some(name) = self.arm_image.board_dtb() else { return Ok(TpmPlace::Mmio) };
        let bytes = self.boot_file(name)?;
        let tree = Fdt::new(&bytes)
            .map_err(|source| CardError::DeviceTree { path: self.path.clone(), source })?;
        TpmPlace::named_by(&tree).ok_or_else(|| CardError::NoPlace(self.path.clone()))
    }

    /// Puts FIT, boot manifest, the firmware behind the VideoCore's, and signed policies
    /// (where it has some) of another image onto this card, as an update would, or someone
    /// who has the card in a reader. The root stays as it is.
    ///
    /// # Errors
    /// [`CardError`]; the card is unchanged then.
    pub fn take_boot_files_of(&mut self, other: &Self) -> Result<(), CardError> {
        if self.arm_image != other.arm_image {
            return Err(CardError::OtherChain {
                path: self.path.clone(),
                has: self.arm_image.file_name(),
                other: other.arm_image.file_name(),
            });
        }
        let card = image::Card::open(&self.path)?;
        let source = image::Card::open(&other.path)?;
        let (_, firmware) = ArmImage::on(&source)?;
        let mut files = vec![(self.arm_image.file_on(&card), firmware)];
        if let Some(name) = self.arm_image.board_dtb() {
            files.push((name, source.boot_file(name)?));
        }
        files.extend(card.good_files(&other.good()?)?);
        if files.iter().all(|(name, new)| self.boot_file(name).is_ok_and(|old| old == *new)) {
            return Ok(());
        }
        let files: Vec<_> = files.iter().map(|(name, new)| (*name, new.as_slice())).collect();
        card.with_boot_files(&files, &self.path)?;
        *self = Self::open(&self.path)?;
        Ok(())
    }

    /// Copies the image, holes as holes. A file that is there is replaced, and only
    /// by a whole copy.
    ///
    /// # Errors
    /// [`CardError::Copy`].
    pub fn copy_to(&self, to: &Path) -> Result<Self, CardError> {
        copy(&self.path, to)?;
        Self::open(to)
    }

    /// A board with this card in its slot. Firmware and device tree are taken from the
    /// card and laid beside the logs.
    ///
    /// # Errors
    /// [`CardError`].
    pub fn board(
        &self,
        tpm: TpmLink,
        logs: &Path,
        tap: Option<Tap>,
    ) -> Result<BoardConfig, CardError> {
        let firmware = logs.join("firmware");
        fs::create_dir_all(&firmware)
            .map_err(|source| CardError::Write { path: firmware.clone(), source })?;
        let lay = |name| -> Result<PathBuf, CardError> {
            let file = firmware.join(name);
            fs::write(&file, self.boot_file(name)?)
                .map_err(|source| CardError::Write { path: file.clone(), source })?;
            Ok(file)
        };
        let image = lay(self.arm_image.file_on(&image::Card::open(&self.path)?))?;
        Ok(BoardConfig {
            machine: match self.arm_image {
                ArmImage::Armstub => {
                    Machine::Rpi3 { firmware: Firmware::Armstub(image), board_dtb: lay(BOARD_DTB)? }
                }
                ArmImage::Kernel => {
                    Machine::Rpi3 { firmware: Firmware::Kernel(image), board_dtb: lay(BOARD_DTB)? }
                }
                ArmImage::Flash => Machine::Virt { flash: image },
            },
            disk: Disk::Card(self.path.clone()),
            tpm,
            clock: Clock::Host,
            network: Network::None,
            emulator: None,
            logs: logs.to_owned(),
            tap,
            secret: secret(),
        })
    }

    /// Powers that board on.
    ///
    /// # Errors
    /// [`CardError`], or the board's own.
    pub fn power_on(
        &self,
        tpm: TpmLink,
        logs: &Path,
        tap: Option<Tap>,
    ) -> Result<Board, CardError> {
        Ok(Board::power_on(self.board(tpm, logs, tap)?)?)
    }
}

/// Copies a file by coreutils' `cp`, which shares blocks where the file system can
/// and leaves holes where there is nothing. The copy gets its name when it is whole.
///
/// # Errors
/// [`CardError::Copy`].
pub fn copy(from: &Path, to: &Path) -> Result<(), CardError> {
    let error = |detail: String| CardError::Copy { from: from.into(), to: to.into(), detail };
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| error(e.to_string()))?;
    let partial = tempfile::Builder::new()
        .prefix(".copy-")
        .tempfile_in(parent)
        .map_err(|e| error(e.to_string()))?
        .into_temp_path();
    let run = Command::new(process::find("cp", "coreutils")?)
        .args(["--reflink=auto", "--sparse=always", "--"])
        .args([from, &partial])
        .output()
        .map_err(|e| error(e.to_string()))?;
    if !run.status.success() {
        return Err(error(String::from_utf8_lossy(&run.stderr).trim().to_owned()));
    }
    partial.persist(to).map_err(|e| error(e.to_string()))
}

#[cfg(test)]
mod tests {
    use crate::recipe;
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    use pcr_measure::manifest::Measurement;
    use pcr_measure::slots::Slot;

    use super::*;
    use crate::image::fat;

    /// A card with these files in its boot partition.
    fn card(dir: &Path, files: &[(&str, &[u8])]) -> PathBuf {
        let path = dir.join("card.img");
        let disk = recipe::Disk::default();
        let file = File::create_new(&path).unwrap();
        file.set_len(disk.size()).unwrap();
        let table = Table::from(&disk);
        file.write_all_at(&table.encode(1).unwrap(), 0).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        fat::format(&file, table.boot, 1).unwrap();
        fat::write(&file, table.boot, files.iter().copied()).unwrap();
        path
    }

    #[test]
    fn no_form_of_the_recovery_key_passes() {
        let secret = secret();
        let key = ["cbdefghi"; 8].join("-");
        for (line, want) in [
            (
                format!("initramfs-unseal: recovery key: {key}"),
                "initramfs-unseal: recovery key: ********",
            ),
            ("\u{1b}[40;97m████ ▄▄▀ █ ▀████\u{1b}[0m".to_owned(), "\u{1b}[40;97m********\u{1b}[0m"),
            ("[    5.1] mmc0: x█ ▀ ".to_owned(), "[    5.1] mmc0: x********"),
            ("######  ##    ####  ######".to_owned(), "********"),
            (
                "## Loading kernel from FIT Image ...".to_owned(),
                "## Loading kernel from FIT Image ...",
            ),
            ("provisioned: /dev/mmcblk0p2".to_owned(), "provisioned: /dev/mmcblk0p2"),
        ] {
            assert_eq!(secret.blacken(&line), want);
        }
    }

    /// A flattened device tree of 40 bytes, as far as its header goes.
    const FIT: &[u8] = &{
        let mut header = [0; 40];
        (header[0], header[1], header[2], header[3], header[7]) = (0xd0, 0x0d, 0xfe, 0xed, 40);
        header
    };

    /// Boot files for this board, the manifest apart.
    fn boot(board: recipe::Board) -> Vec<(&'static str, &'static [u8])> {
        let kind = ArmImage::ALL.into_iter().find(|kind| kind.board() == board).unwrap();
        let firmware = [kind.file_name()].into_iter().chain(kind.board_dtb());
        firmware.map(|name| (name, &b"a"[..])).chain([(Slot::A.fit(), FIT)]).collect()
    }

    /// A manifest for a board of this name.
    fn manifest(board: &str) -> String {
        let builder = Manifest::builder("x", board);
        let measured = Measurement::of(b"k");
        let manifest = builder.event(8, "kernel", measured, "").seal(&[8]).build().unwrap();
        manifest.to_json().unwrap()
    }

    #[test]
    fn what_is_no_image_is_told_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let mut truncated = fs::read(card(dir.path(), &[])).unwrap();
        truncated.truncate(100 << 20);
        let cases = [
            (dir.path().join("absent"), "No such file"),
            (dir.path().to_owned(), "is no file"),
            (file("empty", b""), "no SD card image"),
            (file("text", &b"not an image\n".repeat(1000)), "no SD card image"),
            (file("zeros", &vec![0; 1 << 20]), "no SD card image"),
            (file("cut", &truncated), "cut short"),
        ];
        for (path, expected) in cases {
            let text = Card::open(&path).unwrap_err().to_string();
            assert!(text.contains(expected), "{path:?}: {text}");
            assert!(text.contains(path.to_str().unwrap()), "it names the file: {text}");
        }
    }

    #[test]
    fn a_card_without_firmware_or_manifest_is_refused() {
        let open = |files: &[(&str, &[u8])]| {
            let dir = tempfile::tempdir().unwrap();
            Card::open(&card(dir.path(), files))
        };
        for board in recipe::Board::ALL {
            let json = manifest(board.name());
            let all = [&boot(board)[..], &[(Slot::A.manifest(), json.as_bytes())]].concat();
            assert_eq!(open(&all).unwrap().manifest().board(), board.name());
            for (missing, _) in &all {
                let files: Vec<_> =
                    all.iter().copied().filter(|(name, _)| name != missing).collect();
                let text = open(&files).unwrap_err().to_string();
                assert!(text.contains(missing), "{text}");
            }
        }
        let files = [&boot(recipe::Board::Rpi3)[..], &[(ArmImage::Kernel.file_name(), &b"d"[..])]];
        let text = open(&files.concat()).unwrap_err().to_string();
        assert!(text.contains("has both"), "{text}");
        let files = [&boot(recipe::Board::Rpi3)[..], &[(Slot::A.manifest(), &b"{}"[..])]].concat();
        let error = open(&files).unwrap_err();
        assert!(matches!(error, CardError::Manifest { .. }), "{error}");
        let json = manifest("rpi4");
        let files =
            [&boot(recipe::Board::Rpi3)[..], &[(Slot::A.manifest(), json.as_bytes())]].concat();
        let error = open(&files).unwrap_err().to_string();
        assert!(error.contains("`rpi4`"), "{error}");
    }

    #[test]
    fn a_copy_is_whole_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let from = card(dir.path(), &boot(recipe::Board::Rpi3));
        let to = dir.path().join("sub/copy.img");
        copy(&from, &to).unwrap();
        assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap());
        let lost = dir.path().join("lost");
        assert!(copy(&dir.path().join("absent"), &lost).is_err());
        assert!(!lost.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "card.img and sub");
    }
}
