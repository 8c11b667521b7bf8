//! Resealing on a LUKS2 volume in a file and a software TPM: at every instant the
//! boot before the update unlocks, or that and the one after it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use common::SoftTpm;
use common::vendor::{INDEX, SPARE, SRK, pcrs};
use initramfs_unseal::flow::IndexState;
use initramfs_unseal::luks::{AES_XTS, NewVolume, Progress, Volume};
use initramfs_unseal::pin::Pin;
use initramfs_unseal::reseal::{ResealError, Resealing, Step};
use initramfs_unseal::sealed::Sealed;
use initramfs_unseal::secret::Secret;
use initramfs_unseal::token::{Objects, Phase, Place, Token};
use initramfs_unseal::tpm::{Sealing, Tpm, TpmError, Unsealing};
use initramfs_unseal::volume::{self, Fingerprint, OPENED_BY_HAND};
use pcr_measure::manifest::{Manifest, Reference};
use pcr_measure::pcr::PcrIndex;
use std::path::PathBuf;

const RESERVE: u64 = 4 << 20;
const DATA: u64 = 1 << 20;
const INDICES: [u32; 2] = [INDEX, SPARE];

/// An image whose kernel is all that tells it from others.
fn image(kernel: &str) -> Reference {
    let event = |builder: pcr_measure::manifest::Builder, pcr, what: &str, data: &str| {
        builder.event(pcr, what, data.as_bytes(), "")
    };
    let builder = event(Manifest::builder("test", "test"), 0, "U-Boot version", "v");
    let builder = event(builder, 1, "command line", "quiet");
    let builder = event(builder, 8, "kernel", kernel);
    event(builder, 9, "initramfs", "i").seal(&[0, 1, 8, 9, 15]).build().unwrap().reference()
}

/// A provisioned device, in a boot of the image `a`.
struct Device {
    soft: SoftTpm,
    dir: tempfile::TempDir,
    volume_key: [u8; 64],
    /// Whether a boot tells the TPM when a PIN has served.
    tells: bool,
}

impl Device {
    fn provisioned(pin: Option<&Pin>) -> Self {
        let (soft, dir) = (SoftTpm::start(), tempfile::tempdir().unwrap());
        let volume_key = std::array::from_fn(|i| i as u8 ^ 0x3c);
        let device = Self { soft, dir, volume_key, tells: true };
        let disk = std::fs::File::create(device.disk()).unwrap();
        disk.set_len(RESERVE + DATA).unwrap();
        let mut tpm = device.boot("a");
        let srk_name = tpm.ensure_srk(SRK).unwrap();
        let objects = Objects { nv_index: INDEX, srk: SRK, srk_name, pcrs: pcrs() };
        let mut token = Token::new(Phase::Sealed, objects, [0; 32].into(), image("a"));
        token.pin = pin.is_some();
        let guard = token.guard(None).unwrap();
        token.policy = guard.policy().unwrap();
        let secret = Secret::from_slice(&[0x77; 32]).unwrap();
        let new = NewVolume {
            cipher: AES_XTS,
            volume_key: &volume_key,
            secret: &secret,
            token: &token,
            data_offset: RESERVE,
            sector_size: 4096,
        };
        let mut volume = Volume::create(&device.disk(), &new).unwrap();
        let mut ignore = |_, _| ();
        let mut progress: Progress<'_> = &mut ignore;
        volume.encrypt(&secret, &mut progress).unwrap();
        let sealed = Sealed { secret, fingerprint: Fingerprint::of(&volume_key) };
        let what = Sealing { nv_index: INDEX, srk: SRK, guard: &guard, pin };
        tpm.seal(what, &token.srk_name, &sealed).unwrap();
        let index = tpm.index(INDEX).unwrap().unwrap();
        tpm.lock_index(&index, INDEX).unwrap();
        drop(tpm);
        device
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// What firmware and boot loader of an image measure.
    fn boot(&self, kernel: &str) -> Tpm {
        let mut tpm = self.soft.connect();
        for event in image(kernel).events() {
            tpm.extend(event.pcr, &event.digest).unwrap();
        }
        tpm
    }

    /// Reads the secret as a boot does that the token in the header guides.
    fn read(
        &self,
        tpm: &mut Tpm,
        pin: Option<&Pin>,
        lock: bool,
    ) -> (Place, Result<Sealed, TpmError>) {
        let mut volume = Volume::load(&self.disk()).unwrap();
        assert!(!volume.check(RESERVE).unwrap().unwrap().reencrypting);
        let (_, token) = Token::find(&volume.metadata().unwrap()).unwrap();
        let place = token.place(INDICES).unwrap();
        let guard = token.guard(None).unwrap();
        let before = tpm.commands();
        let index = tpm.index_of(place.nv_index, &guard).unwrap();
        assert_eq!(tpm.commands(), before + 1, "the index is as the token says");
        let Some(index) = index else {
            return (place, Err(TpmError::IndexMissing(place.nv_index)));
        };
        assert_eq!(index.state(), IndexState::Locked);
        let what = Unsealing {
            srk: SRK,
            srk_name: &token.srk_name,
            pcrs: &pcrs(),
            guard: &guard,
            pin,
            nv_index: place.nv_index,
            lock,
        };
        let sealed = tpm.unseal(&index, what);
        if guard.pin() && self.tells {
            tpm.orderly().unwrap();
        }
        (place, sealed)
    }

    /// Power off and on, and a boot of this image: whether the TPM opens the volume.
    fn unlocks(&mut self, kernel: &str, pin: Option<&Pin>) -> Result<Place, TpmError> {
        self.soft.cut_power();
        let mut tpm = self.boot(kernel);
        let (place, sealed) = self.read(&mut tpm, pin, true);
        let sealed = sealed?;
        let mut volume = Volume::load(&self.disk()).unwrap();
        let key = volume.volume_key(place.slot, sealed.secret.expose()).unwrap();
        assert_eq!(key.as_slice(), self.volume_key);
        assert_eq!(sealed.fingerprint, Fingerprint::of(&key));
        Ok(place)
    }

    /// Begins to seal to these images, and stops after some steps.
    fn reseal(&self, kernels: &[&str], steps: usize, pin: Option<&Pin>) -> Result<(), ResealError> {
        let mut tpm = self.soft.connect();
        // The running system: nothing can be unsealed in it.
        tpm.extend(PcrIndex::new(15).unwrap(), &volume::words(OPENED_BY_HAND)).unwrap();
        let mut volume = Volume::load(&self.disk()).unwrap();
        let mut wanted = Token::find(&volume.metadata().unwrap()).unwrap().1;
        wanted.reference = image(kernels[0]);
        wanted.pending = kernels[1..].iter().map(|kernel| image(kernel)).collect();
        wanted.pin = pin.is_some();
        let guard = wanted.guard(None).unwrap();
        let change = |token: &mut Token| {
            token.reference = wanted.reference;
            token.pending = wanted.pending;
            token.pin = wanted.pin;
        };
        let key = &self.volume_key;
        let mut resealing =
            Resealing::new(&mut tpm, &mut volume, key, INDICES, guard, pin, change)?;
        Step::ALL.into_iter().take(steps).try_for_each(|step| resealing.step(step))
    }

    fn slots(&self) -> Vec<String> {
        let mut volume = Volume::load(&self.disk()).unwrap();
        let metadata = volume.metadata().unwrap();
        metadata["keyslots"].as_object().unwrap().keys().cloned().collect()
    }
}

fn first() -> Place {
    Place::both(INDICES)[0]
}

fn second() -> Place {
    Place::both(INDICES)[1]
}

#[test]
fn at_every_instant_the_old_boot_unlocks() {
    for steps in 0..=Step::ALL.len() {
        let mut device = Device::provisioned(None);
        assert_eq!(device.unlocks("a", None), Ok(first()), "premise");
        assert_eq!(device.unlocks("b", None), Err(TpmError::PolicyFailed), "premise");
        device.reseal(&["a", "b"], steps, None).unwrap();
        let switched = steps >= 4;
        let place = if switched { second() } else { first() };
        assert_eq!(device.unlocks("a", None), Ok(place), "cut after {steps} steps");
        let update = if switched { Ok(place) } else { Err(TpmError::PolicyFailed) };
        assert_eq!(device.unlocks("b", None), update, "cut after {steps} steps");

        // Whatever the cut left, the next one gets to its end and cleans up.
        device.reseal(&["a", "b", "c"], Step::ALL.len(), None).unwrap();
        for kernel in ["a", "b", "c"] {
            assert!(device.unlocks(kernel, None).is_ok(), "{kernel} after {steps} steps");
        }
        assert_eq!(device.unlocks("d", None), Err(TpmError::PolicyFailed));
        assert_eq!(device.slots().len(), 1, "after {steps} steps: {:?}", device.slots());
        let mut tpm = device.soft.connect();
        let left = INDICES.map(|index| tpm.index(index).unwrap().is_some());
        assert_eq!(left.iter().filter(|there| **there).count(), 1, "one index is left");
    }
}

#[test]
fn a_boot_that_is_left_out_unlocks_no_more() {
    let mut device = Device::provisioned(None);
    device.reseal(&["a", "b"], Step::ALL.len(), None).unwrap();
    assert_eq!(device.unlocks("a", None), Ok(second()), "premise");
    device.reseal(&["b"], Step::ALL.len(), None).unwrap();
    assert_eq!(device.unlocks("b", None), Ok(first()));
    assert_eq!(device.unlocks("a", None), Err(TpmError::PolicyFailed));
}

#[test]
fn eight_boots_at_once_and_not_nine() {
    let names: Vec<String> = (0..9).map(|n| format!("image-{n}")).collect();
    let kernels: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut device = Device::provisioned(None);
    device.reseal(&kernels[..8], Step::ALL.len(), None).unwrap();
    for kernel in &kernels[..8] {
        assert_eq!(device.unlocks(kernel, None), Ok(second()), "{kernel}");
    }
    let mut volume = Volume::load(&device.disk()).unwrap();
    let (_, mut token) = Token::find(&volume.metadata().unwrap()).unwrap();
    token.pending.push(image(kernels[8]));
    let refusal = token.guard(None).unwrap_err().to_string();
    assert!(refusal.contains("8 at most"), "{refusal}");
}

/// The update costs two commands, and stays within twelve: a boot opens the device,
/// which is one more, and extends two PCRs.
#[test]
fn a_staged_boot_unlocks_within_the_budget_of_commands() {
    let mut device = Device::provisioned(None);
    device.reseal(&["a", "b"], Step::ALL.len(), None).unwrap();
    device.soft.cut_power();
    let mut tpm = device.boot("b");
    let before = tpm.commands();
    device.read(&mut tpm, None, true).1.unwrap();
    assert_eq!(tpm.commands() - before, 9);
}

/// An index that somebody else made is not taken away.
#[test]
fn a_foreign_index_in_the_spare_place_is_left_alone() {
    let mut device = Device::provisioned(None);
    let index = format!("{SPARE:#x}");
    let made = device.soft.tool("tpm2_nvdefine", &[&index, "-C", "o", "-s", "8"]);
    assert!(made.status.success(), "{made:?}");
    let refusal = device.reseal(&["a", "b"], Step::ALL.len(), None).unwrap_err();
    assert!(matches!(refusal, ResealError::Tpm(TpmError::ForeignIndex(SPARE))), "{refusal}");
    assert_eq!(device.unlocks("a", None), Ok(first()));
    let read = device.soft.tool("tpm2_nvreadpublic", &[&index]);
    assert!(read.status.success(), "{read:?}");
}

#[test]
fn the_secret_of_a_reseal_does_not_cross_the_bus() {
    let mut device = Device::provisioned(None);
    device.soft.wire();
    device.reseal(&["a", "b"], Step::ALL.len(), None).unwrap();
    let wire = device.soft.wire();
    assert!(wire.contains(&hex::encode(SPARE.to_be_bytes())), "the capture saw it");
    device.soft.cut_power();
    let mut tpm = device.boot("b");
    let sealed = device.read(&mut tpm, None, false).1.unwrap();
    drop(tpm);
    let leaks =
        |wire: &str| sealed.secret.expose().windows(8).any(|run| wire.contains(&hex::encode(run)));
    assert!(!leaks(&wire));
    // The premise: written without a session, it is found.
    std::fs::write(device.soft.dir().join("secret"), sealed.secret.expose()).unwrap();
    device.soft.wire();
    for line in ["tpm2_nvdefine 0x01800001 -C o -s 32", "tpm2_nvwrite 0x01800001 -C o -i secret"] {
        let words: Vec<&str> = line.split(' ').collect();
        let ran = device.soft.tool(words[0], &words[1..]);
        assert!(ran.status.success(), "{ran:?}");
    }
    assert!(leaks(&device.soft.wire()), "premise");
}

/// Guesses that the TPM has counted.
fn failures(soft: &SoftTpm) -> u32 {
    let out = soft.tool("tpm2_getcap", &["properties-variable"]);
    let text = String::from_utf8(out.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("LOCKOUT_COUNTER")).unwrap();
    u32::from_str_radix(line.split("0x").nth(1).unwrap().trim(), 16).unwrap()
}

/// Wrong guesses are the TPM's to count; a cut after a right one is none.
#[test]
fn a_pin_is_demanded_counted_and_changed() {
    let pin = |text: &str| Pin::parse(text.as_bytes()).unwrap();
    let (right, wrong, new) = (pin("123456"), pin("654321"), pin("correct horse"));
    let mut device = Device::provisioned(Some(&right));
    assert_eq!(device.unlocks("a", Some(&right)), Ok(first()));
    assert_eq!(device.unlocks("b", Some(&right)), Err(TpmError::PolicyFailed));
    assert!(device.unlocks("a", None).is_err(), "without the PIN");
    assert!(device.soft.tool("tpm2_dictionarylockout", &["-c"]).status.success());
    assert_eq!(failures(&device.soft), 0);
    assert_eq!(device.unlocks("a", Some(&wrong)), Err(TpmError::WrongPin));
    assert_eq!(failures(&device.soft), 1, "a wrong PIN is counted");
    assert!(device.soft.tool("tpm2_dictionarylockout", &["-c"]).status.success());
    device.reseal(&["a", "b"], Step::ALL.len(), Some(&new)).unwrap();
    assert_eq!(device.unlocks("a", Some(&right)), Err(TpmError::WrongPin), "the old PIN");
    assert_eq!(device.unlocks("a", Some(&new)), Ok(second()));
    assert_eq!(device.unlocks("b", Some(&new)), Ok(second()), "the update");
}

#[test]
fn a_cut_after_a_pin_is_no_guess_once_the_tpm_was_told() {
    let pin = Pin::parse(b"123456").unwrap();
    for told in [true, false] {
        let mut device = Device::provisioned(Some(&pin));
        device.tells = told;
        for _ in 0..2 {
            device.unlocks("a", Some(&pin)).unwrap();
            let mut tpm = device.soft.connect();
            // The boot goes on, and the power goes.
            tpm.extend(PcrIndex::new(15).unwrap(), &volume::words("latched")).unwrap();
            drop(tpm);
            device.soft.cut_power();
        }
        let counted = failures(&device.soft);
        assert_eq!(counted == 0, told, "{counted} guesses counted");
    }
}

/// A lockout hierarchy whose password follows from the volume key: nobody else
/// forgives guesses.
#[test]
fn only_the_volume_key_forgives_guesses() {
    use initramfs_unseal::tpm::lockout;
    use std::os::unix::net::UnixStream;
    let device = Device::provisioned(None);
    let mut tpm = device.soft.connect();
    let srk_name = tpm.ensure_srk(SRK).unwrap();
    drop(tpm);
    let raw = || UnixStream::connect(device.soft.dir().join("tpm")).unwrap();
    lockout::set_parameters(&mut raw()).unwrap();
    let out = device.soft.tool("tpm2_getcap", &["properties-variable"]);
    let text = String::from_utf8(out.stdout).unwrap();
    for (name, value) in [
        ("MAX_AUTH_FAIL", lockout::MAX_TRIES),
        ("LOCKOUT_INTERVAL", lockout::RECOVERY_TIME),
        ("LOCKOUT_RECOVERY", lockout::LOCKOUT_RECOVERY),
    ] {
        let line = text.lines().find(|line| line.contains(name)).unwrap();
        assert!(line.trim_end().ends_with(&format!("{value:X}")), "{line}");
    }
    lockout::forgive(&mut raw()).unwrap();

    let mut tpm = device.soft.connect();
    for _ in 0..2 {
        tpm.close_lockout(SRK, &srk_name, b"volume key").unwrap();
    }
    assert!(tpm.lockout_has_password().unwrap());
    drop(tpm);
    let wire = device.soft.wire();
    assert_eq!(lockout::forgive(&mut raw()), Err(TpmError::OwnerAuth), "without the password");
    device.soft.tool("tpm2_clear", &["-c", "p"]);
    let mut device = device;
    device.soft.cut_power();
    let mut tpm = device.soft.connect();
    let srk_name = tpm.ensure_srk(SRK).unwrap();
    tpm.close_lockout(SRK, &srk_name, b"volume key").unwrap();
    tpm.open_lockout(SRK, &srk_name, b"volume key").unwrap();
    assert!(!tpm.lockout_has_password().unwrap());
    tpm.close_lockout(SRK, &srk_name, b"volume key").unwrap();
    let wrong = tpm.open_lockout(SRK, &srk_name, b"another key").unwrap_err();
    assert_eq!(wrong, TpmError::WrongPassword);
    drop(wire);
}
