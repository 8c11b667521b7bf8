//! An attacker's LUKS2 volumes, put in the place of a provisioned device's root.
//! Made with Debian's cryptsetup and a cipher of our own writing: no device mapper is
//! needed, and nothing of the code under test is used.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use aes::{Aes256, cipher::KeyInit};
use image_builder::emu::{card::Card, device::RecoveryKey};
use xts_mode::{Xts128, get_tweak_default};

/// Bytes of a sector, of the disk and of the attacker's encryption.
const SECTOR: usize = 512;

/// The attacker's own recovery key, in the form that the prompt takes.
pub const KEY: &str = "dddddddd-eeeeeeee-ffffffff-gggggggg-hhhhhhhh-iiiiiiii-jjjjjjjj-kkkkkkkk";

/// Bytes of a LUKS2 binary header, before the JSON area (LUKS2 On-Disk Format
/// Specification 1.1.1, 2.1).
const BINARY: usize = 4096;

/// Something to put in the place of the root.
#[derive(Debug)]
pub struct Volume {
    file: PathBuf,
    dir: PathBuf,
    reserve: usize,
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The root partition of a card.
#[must_use]
pub fn root_partition(card: &Card) -> Vec<u8> {
    let root = card.table().root;
    let mut bytes = vec![0; usize::try_from(root.size).expect("a card fits into memory")];
    let file = fs::File::open(card.path()).expect("the card");
    file.read_exact_at(&mut bytes, root.start).expect("the root partition");
    bytes
}

/// Puts `bytes` over the root partition of a card.
pub fn replace_root(card: &Card, bytes: &[u8]) {
    let root = card.table().root;
    assert_eq!(bytes.len() as u64, root.size, "as large as the partition");
    let file = fs::OpenOptions::new().write(true).open(card.path()).expect("the card");
    file.write_all_at(bytes, root.start).expect("the root partition");
}

/// The metadata of the volume in a card's root partition, as the first header has it
/// now. `None` where there is none, or where it is being written.
#[must_use]
pub fn metadata(card: &Card) -> Option<serde_json::Value> {
    let file = fs::File::open(card.path()).expect("the card");
    let start = card.table().root.start;
    let mut size = [0; 8];
    file.read_exact_at(&mut size, start + 8).expect("the root partition");
    let room = u64::from_be_bytes(size).checked_sub(BINARY as u64)?;
    // Sixteen sizes are allowed; provisioning takes the smallest.
    let mut area = vec![0; usize::try_from(room).ok().filter(|room| *room <= 64 * 1024)?];
    file.read_exact_at(&mut area, start + BINARY as u64).expect("the root partition");
    let end = area.iter().position(|b| *b == 0)?;
    serde_json::from_slice(area.get(..end)?).ok()
}

/// Changes the metadata of a LUKS2 volume, keeping both copies and their checksums valid
/// (LUKS2 On-Disk Format Specification 1.1.1, 2.1: a binary header of 4096 bytes with
/// the SHA-256 over it and the JSON area, the checksum's own field as zeros).
pub fn edit(volume: &mut [u8], change: impl Fn(&mut serde_json::Value)) {
    use sha2::Digest as _;
    const CHECKSUM: std::ops::Range<usize> = 448..512;
    let size = u64::from_be_bytes(volume[8..16].try_into().expect("eight bytes"));
    let size = usize::try_from(size).expect("a size");
    for start in [0, size] {
        let header = &mut volume[start..start + size];
        let (binary, area) = header.split_at_mut(BINARY);
        let end = area.iter().position(|b| *b == 0).expect("JSON ends");
        let mut json = serde_json::from_slice(&area[..end]).expect("metadata");
        change(&mut json);
        let text = json.to_string();
        assert!(text.len() < area.len(), "the change fits");
        area.fill(0);
        area[..text.len()].copy_from_slice(text.as_bytes());
        binary[CHECKSUM].fill(0);
        let digest = sha2::Sha256::new().chain_update(&*binary).chain_update(&*area).finalize();
        binary[CHECKSUM][..32].copy_from_slice(&digest);
    }
}

impl Volume {
    /// A volume of the victim's size, UUID and token, whose key and passphrase the
    /// attacker knows; with `plain` (a file system) in it, encrypted with AES-XTS as
    /// far as `cipher` says so.
    #[must_use]
    pub fn like(victim: &Card, reserve: usize, plain: &[u8], cipher: &str, dir: &Path) -> Self {
        let at = |name: &str| dir.join(name);
        let whole = root_partition(victim);
        fs::write(at("victim"), &whole).expect("a copy of the victim's volume");
        let volume = Self { file: at("evil"), dir: dir.to_owned(), reserve };
        fs::write(&volume.file, vec![0; whole.len()]).expect("the attacker's volume");
        let victim = at("victim");
        let uuid = run(Command::new("cryptsetup").arg("luksUUID").arg(&victim));
        let uuid = String::from_utf8(uuid).expect("a UUID").trim().to_owned();

        let key: Vec<u8> = (0..64).collect();
        fs::write(at("volume-key"), &key).expect("the attacker's volume key");
        fs::write(at("passphrase"), KEY).expect("the attacker's passphrase");
        let sectors = (reserve / SECTOR).to_string();
        let mut format = volume.cryptsetup("luksFormat");
        format.args(["--type", "luks2", "--uuid", &uuid, "--cipher", cipher, "--key-size", "512"]);
        format.args(["--offset", &sectors, "--sector-size", "512", "--key-slot", "0"]);
        format.args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]);
        format.arg("--volume-key-file").arg(at("volume-key"));
        run(format.arg(&volume.file).arg(at("passphrase")));
        // A second slot where the TPM's is, with a key that the TPM does not know.
        let mut add = volume.cryptsetup("luksAddKey");
        add.args(["--key-slot", "1", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]);
        add.arg("--key-file").arg(at("passphrase"));
        run(add.arg(&volume.file).arg(at("volume-key")));
        let export = Command::new("cryptsetup")
            .args(["token", "export", "--token-id", "0"])
            .arg(&victim)
            .output()
            .expect("cryptsetup");
        fs::write(at("token"), export.stdout).expect("the victim's token");
        let mut import = volume.cryptsetup("token");
        import.args(["import", "--token-id", "0", "--json-file"]).arg(at("token"));
        run(import.arg(&volume.file));

        volume.write(&key, plain);
        volume
    }

    /// A volume as somebody made it with cryptsetup before there was a TPM: `plain` in
    /// it, one passphrase in slot 0.
    #[must_use]
    pub fn made_by_hand(reserve: usize, plain: &[u8], passphrase: &str, dir: &Path) -> Self {
        let at = |name: &str| dir.join(name);
        let volume = Self { file: at("made-by-hand"), dir: dir.to_owned(), reserve };
        fs::write(&volume.file, vec![0; reserve + plain.len()]).expect("the volume");
        let key: Vec<u8> = (64..128).collect();
        fs::write(at("volume-key"), &key).expect("its key");
        fs::write(at("passphrase"), passphrase).expect("its passphrase");
        let sectors = (reserve / SECTOR).to_string();
        let mut format = volume.cryptsetup("luksFormat");
        format.args(["--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512"]);
        format.args(["--offset", &sectors, "--sector-size", "512", "--key-slot", "0"]);
        format.args(["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "2000"]);
        format.arg("--volume-key-file").arg(at("volume-key"));
        run(format.arg(&volume.file).arg(at("passphrase")));
        volume.write(&key, plain);
        volume
    }

    fn cryptsetup(&self, action: &str) -> Command {
        let mut command = Command::new("cryptsetup");
        command.args(["--batch-mode", action]).current_dir(&self.dir);
        command
    }

    /// Encrypts the file system into the volume (XTS, tweak = sector: `plain64`).
    fn write(&self, key: &[u8], plain: &[u8]) {
        let (first, second) = key.split_at(32);
        let cipher = |half| Aes256::new_from_slice(half).expect("32 bytes");
        let xts = Xts128::new(cipher(first), cipher(second));
        let mut data = plain.to_vec();
        xts.encrypt_area(&mut data, SECTOR, 0, get_tweak_default);
        let file = fs::OpenOptions::new().write(true).open(&self.file).expect("the volume");
        file.write_all_at(&data, self.reserve as u64).expect("the encrypted file system");
    }

    /// The bytes of the volume.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.file).expect("the volume")
    }

    /// Takes back all changes since these were its bytes.
    pub fn restore(&self, bytes: &[u8]) {
        fs::write(&self.file, bytes).expect("the volume");
    }

    /// Changes the metadata: see [`edit`].
    pub fn edit(&self, change: impl Fn(&mut serde_json::Value)) {
        let mut bytes = self.bytes();
        edit(&mut bytes, change);
        fs::write(&self.file, bytes).expect("the volume");
    }

    /// The attacker's key, to be typed.
    #[must_use]
    pub fn recovery_key() -> RecoveryKey {
        RecoveryKey::new(KEY.to_owned())
    }
}
