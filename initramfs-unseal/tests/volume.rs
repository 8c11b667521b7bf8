//! Encryption in place on a file, with libcryptsetup and Debian's cryptsetup as
//! the second opinion. AES-XTS here: OpenSSL does it without the kernel's help.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use initramfs_unseal::blockdev;
use initramfs_unseal::disk_state::Seen;
use initramfs_unseal::luks::{AES_XTS, LuksError, NewVolume, Progress, Volume};
use initramfs_unseal::recovery::RecoveryKey;
use initramfs_unseal::secret::Secret;
use initramfs_unseal::token::{Objects, Phase, RECOVERY_SLOT, TPM_SLOT, Token};
use pcr_measure::manifest::Manifest;
use pcr_measure::policy;
use sha2::Digest as _;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const RESERVE: u64 = 4 << 20;
const DATA: usize = 12 << 20;

struct Disk {
    _dir: tempfile::TempDir,
    path: PathBuf,
    plain: Vec<u8>,
    key: [u8; 64],
    secret: Secret,
}

fn token(phase: Phase) -> Token {
    let reference = Manifest::builder("test", "test")
        .event(0, "U-Boot version", b"v".as_slice(), "")
        .event(8, "kernel", b"k".as_slice(), "")
        .seal(&[0, 8, 15])
        .build()
        .unwrap()
        .reference();
    let policy = policy::pcr_digest(reference.seal(), &reference.sealed_values()).unwrap();
    let objects = Objects {
        nv_index: 0x0180_6d73,
        srk: 0x8100_0001,
        srk_name: vec![0, 0x0b, 1, 2, 3],
        pcrs: *reference.seal(),
    };
    Token::new(phase, objects, policy, reference)
}

impl Disk {
    /// A reserve and an ext4 file system behind it.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let disk = std::fs::File::create(&path).unwrap();
        disk.set_len(RESERVE + DATA as u64).unwrap();
        let made = Command::new("mke2fs")
            .args(["-q", "-t", "ext4", "-b", "4096", "-E"])
            .arg(format!("offset={RESERVE}"))
            .arg(&path)
            .arg(format!("{}k", DATA >> 10))
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut plain = vec![0; DATA];
        std::fs::File::open(&path).unwrap().read_exact_at(&mut plain, RESERVE).unwrap();
        Self {
            _dir: dir,
            path,
            plain,
            key: std::array::from_fn(|i| i as u8 ^ 0x3c),
            secret: Secret::from_slice(&[0x77; 32]).unwrap(),
        }
    }

    fn create(&self) -> Result<Volume, LuksError> {
        let token = token(Phase::Encrypting);
        let new = NewVolume {
            cipher: AES_XTS,
            volume_key: &self.key,
            secret: &self.secret,
            token: &token,
            data_offset: RESERVE,
            sector_size: 4096,
        };
        Volume::create(&self.path, &new)
    }

    fn encrypt(&self) -> Vec<u64> {
        let mut seen = Vec::new();
        let mut note = |done, _| seen.push(done);
        let mut progress: Progress<'_> = &mut note;
        Volume::load(&self.path).unwrap().encrypt(&self.secret, &mut progress).unwrap();
        seen
    }

    fn data(&self) -> Vec<u8> {
        let mut data = vec![0; DATA];
        std::fs::File::open(&self.path).unwrap().read_exact_at(&mut data, RESERVE).unwrap();
        data
    }

    /// The volume decrypted by Debian's cryptsetup, if `passphrase` opens it.
    fn opens(&self, slot: u32, passphrase: &[u8]) -> bool {
        let mut child = Command::new("cryptsetup")
            .args(["open", "--test-passphrase", "--key-file", "-", "--key-slot", &slot.to_string()])
            .arg(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(passphrase).unwrap();
        child.wait().unwrap().success()
    }
}

/// Decrypts every 257th sector of 4096 bytes with Python's cryptography:
/// AES-256-XTS, sectors numbered in units of 512 bytes (`plain64` without
/// `iv_large_sectors`).
fn decrypt(key: &[u8], data: &Path) -> Vec<u8> {
    const PROGRAM: &str = "
import sys
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
key, data = bytes.fromhex(sys.argv[1]), open(sys.argv[2], 'rb').read()[int(sys.argv[3]):]
for at in range(0, len(data), 257 * 4096):
    tweak = (at // 512).to_bytes(16, 'little')
    xts = Cipher(algorithms.AES(key), modes.XTS(tweak)).decryptor()
    sys.stdout.buffer.write(xts.update(data[at:at + 4096]) + xts.finalize())
";
    let out = Command::new("python3")
        .args(["-c", PROGRAM, &hex::encode(key)])
        .arg(data)
        .arg(RESERVE.to_string())
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    out.stdout
}

#[test]
fn a_new_header_leaves_the_file_system_alone_and_passes_the_allowlist() {
    let disk = Disk::new();
    let before = blockdev::look(&disk.path, RESERVE).unwrap();
    assert!(matches!(before, Seen::Moved { header: false, .. }), "{before:?}");
    drop(disk.create().unwrap());
    assert_eq!(disk.data(), disk.plain);
    let after = blockdev::look(&disk.path, RESERVE).unwrap();
    assert!(matches!(after, Seen::Moved { header: true, .. }), "{after:?}");
    let mut volume = Volume::load(&disk.path).unwrap();
    let facts = volume.check(RESERVE).unwrap().unwrap();
    assert!(facts.reencrypting);
    let (_, found) = Token::find(&volume.metadata().unwrap()).unwrap();
    assert_eq!(found, token(Phase::Encrypting));
    // Made anew over itself, as after a power cut.
    drop(volume);
    drop(disk.create().unwrap());
    assert_eq!(disk.data(), disk.plain);
}

#[test]
fn it_encrypts_in_place_to_what_dm_crypt_will_read() {
    let disk = Disk::new();
    drop(disk.create().unwrap());
    let seen = disk.encrypt();
    assert!(seen.len() > 3 && seen.is_sorted(), "{seen:?}");
    assert_eq!(seen.last(), Some(&(DATA as u64)));
    assert_eq!(blockdev::look(&disk.path, RESERVE).unwrap(), Seen::Luks);

    let got = decrypt(&disk.key, &disk.path);
    let want: Vec<u8> = disk.plain.chunks(4096).step_by(257).flatten().copied().collect();
    assert!(got == want, "the ciphertext does not decrypt to the file system");

    let mut volume = Volume::load(&disk.path).unwrap();
    assert!(!volume.check(RESERVE).unwrap().unwrap().reencrypting);
    assert_eq!(volume.volume_key(TPM_SLOT, disk.secret.expose()).unwrap().as_slice(), disk.key);
    assert!(matches!(volume.volume_key(TPM_SLOT, &[0; 32]), Err(LuksError::WrongKey(TPM_SLOT))));
}

#[test]
fn the_recovery_key_is_one_that_cryptsetup_takes_and_can_be_set_again() {
    let disk = Disk::new();
    drop(disk.create().unwrap());
    disk.encrypt();
    let mut volume = Volume::load(&disk.path).unwrap();
    let keys =
        [[1u8; 32], [2; 32]].map(|b| RecoveryKey::from_secret(&Secret::from_slice(&b).unwrap()));
    for key in &keys {
        volume.set_recovery_key(RECOVERY_SLOT, &disk.key, key.expose().as_bytes()).unwrap();
    }
    let (number, mut found) = Token::find(&volume.metadata().unwrap()).unwrap();
    found.phase = Phase::Sealed;
    volume.replace_token(number, &found).unwrap();
    drop(volume);
    assert!(disk.opens(RECOVERY_SLOT, keys[1].expose().as_bytes()));
    assert!(!disk.opens(RECOVERY_SLOT, keys[0].expose().as_bytes()), "the first key still opens");
    assert!(disk.opens(TPM_SLOT, disk.secret.expose()));
    let mut volume = Volume::load(&disk.path).unwrap();
    assert!(volume.check(RESERVE).unwrap().is_ok());
    assert_eq!(Token::find(&volume.metadata().unwrap()).unwrap().1.phase, Phase::Sealed);
}

/// Writes both copies of the header anew, checksums and all, with `text` of the metadata
/// and the size of a copy that it shall claim (LUKS2 On-Disk Format Specification 1.1.1,
/// 2.1: a binary header of 4096 bytes with the SHA-256 over it and the JSON area, the
/// checksum's own field as zeros).
fn forge(disk: &Disk, claimed: Option<u64>, text: &dyn Fn(&str) -> Vec<u8>) {
    const BINARY: usize = 4096;
    const SIZE: std::ops::Range<usize> = 8..16;
    const CHECKSUM: std::ops::Range<usize> = 448..512;
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&disk.path).unwrap();
    let mut size = [0; 8];
    file.read_exact_at(&mut size, SIZE.start as u64).unwrap();
    let size = u64::from_be_bytes(size);
    for start in [0, size] {
        let mut header = vec![0; usize::try_from(size).unwrap()];
        file.read_exact_at(&mut header, start).unwrap();
        let (binary, area) = header.split_at_mut(BINARY);
        let end = area.iter().position(|b| *b == 0).unwrap();
        let text = text(std::str::from_utf8(&area[..end]).unwrap());
        area.fill(0);
        area[..text.len()].copy_from_slice(&text);
        binary[SIZE].copy_from_slice(&claimed.unwrap_or(size).to_be_bytes());
        binary[CHECKSUM].fill(0);
        let digest = sha2::Sha256::new().chain_update(&*binary).chain_update(&*area).finalize();
        binary[CHECKSUM][..32].copy_from_slice(&digest);
        file.write_all_at(&header, start).unwrap();
    }
}

#[test]
fn an_oversized_or_malformed_json_area_is_refused() {
    /// The largest copy of a header there is, and what `create` makes.
    const LARGEST: u64 = 4 << 20;
    const AREA: usize = (32 << 10) - 4096;
    let disk = Disk::new();
    drop(disk.create().unwrap());
    disk.encrypt();
    let same = |text: &str| text.as_bytes().to_vec();
    let opens = || Volume::load(&disk.path).is_ok_and(|mut v| v.check(RESERVE).unwrap().is_ok());
    forge(&disk, None, &same);
    assert!(opens(), "premise: rewritten without a change it is taken");
    let pristine = std::fs::read(&disk.path).unwrap();

    let replaced = |from: &'static str, to: &str| {
        let to = to.to_owned();
        move |text: &str| {
            assert!(text.contains(from), "{from} in {text}");
            text.replacen(from, &to, 1).into_bytes()
        }
    };
    type Text = Box<dyn Fn(&str) -> Vec<u8>>;
    let texts: Vec<(&str, Text)> = vec![
        ("empty", Box::new(|_| Vec::new())),
        ("no JSON", Box::new(|_| vec![0xff; AREA])),
        ("cut in half", Box::new(|text| text.as_bytes()[..text.len() / 2].to_vec())),
        ("a list", Box::new(|text| format!("[{text}]").into_bytes())),
        ("nested without end", Box::new(|_| vec![b'['; AREA])),
        ("nested objects", Box::new(|_| "{\"a\":".repeat(AREA / 5).into_bytes())),
        ("a string without end", Box::new(|_| [&b"{\""[..], &vec![b'a'; AREA - 2]].concat())),
        ("more behind it", Box::new(|text| format!("{text}{text}").into_bytes())),
        ("keyslots as a list", Box::new(replaced("\"keyslots\":{", "\"keyslots\":[],\"x\":{"))),
        ("an area size of its own", Box::new(replaced("\"json_size\":\"", "\"json_size\":\"9"))),
        (
            "a number beyond 64 bits",
            Box::new(replaced("\"offset\":\"", "\"offset\":\"99999999999")),
        ),
    ];
    for (what, text) in &texts {
        forge(&disk, None, text);
        assert!(!opens(), "{what} was taken");
        std::fs::write(&disk.path, &pristine).unwrap();
        assert!(opens());
    }
    for claimed in [0, 1, 4096, 20 << 10, LARGEST, LARGEST + 1, 1 << 40, u64::MAX] {
        forge(&disk, Some(claimed), &same);
        assert!(!opens(), "a copy of {claimed} bytes was taken");
        std::fs::write(&disk.path, &pristine).unwrap();
    }
}

#[test]
fn what_is_no_volume_is_an_error() {
    let disk = Disk::new();
    let err = Volume::load(&disk.path).unwrap_err().to_string();
    assert!(err.contains("LUKS2 header"), "{err}");
    assert!(Volume::load(Path::new("/nonexistent")).is_err());
}
