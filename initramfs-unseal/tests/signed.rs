//! The binding `signed` against a software TPM, with Debian's tpm2-tools as the
//! attacker who keeps to no order but the TPM's. Each refusal stands beside its
//! premise: the same call works while the defence is not in its way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use common::SoftTpm;
use initramfs_unseal::authority::{Authority, PolicyKey, SignedError};
use initramfs_unseal::config::{Config, SCHEMA};
use initramfs_unseal::console::Consoles;
use initramfs_unseal::flow::Step;
use initramfs_unseal::provision::{ProvisionError, Provisioning};
use initramfs_unseal::rollback;
use initramfs_unseal::sealed::Sealed;
use initramfs_unseal::secret::Secret;
use initramfs_unseal::tpm::{Sealing, Tpm, TpmError, Unsealing};
use initramfs_unseal::volume::{self, Fingerprint, OPENED_BY_HAND};
use pcr_measure::key::SigningKey;
use pcr_measure::manifest::Manifest;
use pcr_measure::pcr::{PcrIndex, PcrSelection};
use pcr_measure::policy;
use pcr_measure::signed_policy::{NoEntry, SignatureFile};
use std::process::Command;

const INDEX: u32 = 0x0180_6d73;
const COUNTER: u32 = 0x0180_6d74;
const SRK: u32 = 0x8100_0001;
const PCRS: &str = "0,1,8,9,15";

const RSA: [&str; 4] = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const ECC: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

fn key(kind: [&str; 4]) -> SigningKey {
    let out = Command::new("openssl").arg("genpkey").args(kind).output().expect("openssl is there");
    assert!(out.status.success(), "{out:?}");
    SigningKey::from_pem(&out.stdout).unwrap()
}

fn pcr(number: u32) -> PcrIndex {
    PcrIndex::new(number).unwrap()
}

fn pcrs() -> PcrSelection {
    PCRS.parse().unwrap()
}

fn authority(key: &SigningKey, version: u64) -> Authority {
    let policy_key = PolicyKey::parse(&key.public().to_tpm_public().unwrap()).unwrap();
    Authority { policy_key, counter: COUNTER, version }
}

/// A file with one entry: this boot, as the TPM has it now, up to `version`.
fn signed(tpm: &mut Tpm, key: &SigningKey, pcrs: &PcrSelection, version: u64) -> SignatureFile {
    let mut file = SignatureFile::new();
    let rollback = authority(key, version).rollback();
    file.sign_with(key, pcrs, &tpm.pcrs(pcrs).unwrap(), Some(&rollback)).unwrap();
    file
}

/// What a boot of this image measures.
fn measure(tpm: &mut Tpm, image: &str) {
    for number in [0, 1, 8, 9] {
        tpm.extend(pcr(number), &volume::words(image)).unwrap();
    }
}

struct Board {
    soft: SoftTpm,
    key: SigningKey,
    /// Of the image `old`, version 1.
    authority: Authority,
    file: String,
    srk_name: Vec<u8>,
    sealed: Sealed,
}

impl Board {
    /// A board that was provisioned by the image `old`, and runs it.
    fn sealed(kind: [&str; 4]) -> Self {
        let (soft, key) = (SoftTpm::start(), key(kind));
        let mut tpm = soft.connect();
        measure(&mut tpm, "old");
        let authority = authority(&key, 1);
        let (_, value) = tpm.ensure_counter(&authority.rollback()).unwrap();
        assert_eq!(value, 1, "the first counter of a new TPM begins at 1");
        let srk_name = tpm.ensure_srk(SRK).unwrap();
        let sealed = Sealed {
            secret: Secret::from_slice(&std::array::from_fn::<u8, 32, _>(|i| 0xa0 ^ i as u8))
                .unwrap(),
            fingerprint: Fingerprint([0x5a; 32]),
        };
        let policy = authority.policy().unwrap();
        tpm.seal(Sealing { nv_index: INDEX, srk: SRK, policy }, &srk_name, &sealed).unwrap();
        let file = signed(&mut tpm, &key, &pcrs(), 1).to_json().unwrap();
        drop(tpm);
        Self { soft, key, authority, file, srk_name, sealed }
    }

    fn what<'a>(&'a self, pcrs: &'a PcrSelection, lock: bool) -> Unsealing<'a> {
        Unsealing { srk: SRK, srk_name: &self.srk_name, pcrs, nv_index: INDEX, lock }
    }

    fn read(
        &self,
        tpm: &mut Tpm,
        authority: &Authority,
        file: &str,
        lock: bool,
    ) -> Result<Sealed, SignedError> {
        let index = tpm.index(INDEX)?.ok_or(TpmError::IndexMissing(INDEX))?;
        tpm.unseal_signed(&index, self.what(&pcrs(), lock), authority, file.as_bytes())
    }

    fn opens(&self, tpm: &mut Tpm, authority: &Authority, file: &str) -> bool {
        match self.read(tpm, authority, file, false) {
            Ok(sealed) => {
                assert_eq!(sealed.secret.expose(), self.sealed.secret.expose());
                assert_eq!(sealed.fingerprint, self.sealed.fingerprint);
                true
            }
            Err(_) => false,
        }
    }

    /// Why it does not open.
    fn refusal(&self, tpm: &mut Tpm, authority: &Authority, file: &str) -> SignedError {
        self.read(tpm, authority, file, false).unwrap_err()
    }

    /// All of it with tpm2-tools: whether the secret came out, and the tool that
    /// did not work.
    fn by_tools(&self, file: &str, version: u64) -> Result<(), String> {
        let file = SignatureFile::from_json(file.as_bytes()).unwrap();
        let entry = file.entries().next().unwrap();
        let dir = self.soft.dir();
        let area = self.authority.policy_key.public();
        let sized = [&(area.len() as u16).to_be_bytes(), area].concat();
        for (name, bytes) in [
            ("area", sized.as_slice()),
            ("name", self.authority.policy_key.name()),
            ("pol", entry.policy.as_bytes()),
            ("sig", &entry.signature),
            ("operand", &version.to_be_bytes()),
        ] {
            std::fs::write(dir.join(name), bytes).unwrap();
        }
        let scheme = if self.authority.policy_key.is_rsa() { "rsassa" } else { "ecdsa" };
        let (index, counter) = (format!("{INDEX:#x}"), format!("{COUNTER:#x}"));
        let lines = [
            "tpm2_loadexternal -Q -C o -u area -c key.ctx".to_owned(),
            format!("tpm2_verifysignature -Q -c key.ctx -g sha256 -f {scheme} -m pol -s sig -t t"),
            "tpm2_startauthsession -Q --policy-session -S s".to_owned(),
            format!("tpm2_policypcr -Q -S s -l sha256:{PCRS}"),
            format!("tpm2_policynv -Q -S s -C {counter} -i operand {counter} ule"),
            "tpm2_policyauthorize -Q -S s -i pol -n name -t t".to_owned(),
            format!("tpm2_nvread {index} -P session:s -o out"),
        ];
        let failed = lines.iter().find_map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let ran = self.soft.tool(words[0], &words[1..]);
            (!ran.status.success()).then(|| words[0].to_owned())
        });
        self.soft.tool("tpm2_flushcontext", &["s"]);
        self.soft.tool("tpm2_flushcontext", &["-t"]);
        failed.map_or(Ok(()), Err)
    }
}

#[test]
fn what_was_sealed_comes_back_within_the_budget_of_commands() {
    for kind in [RSA, ECC] {
        let board = Board::sealed(kind);
        let mut tpm = board.soft.connect();
        let got = board.read(&mut tpm, &board.authority, &board.file, true).unwrap();
        assert_eq!(got.secret.expose(), board.sealed.secret.expose());
        for number in [15, 11] {
            tpm.extend(pcr(number), &volume::words("x")).unwrap();
        }
        // Opening a device is one more.
        assert_eq!(tpm.commands(), 19);
        let again = board.refusal(&mut tpm, &board.authority, &board.file);
        assert!(matches!(again, SignedError::NoEntry(NoEntry::OtherPolicy)), "{again}");
        drop(tpm);
        // No session, no key is left behind.
        for what in ["handles-loaded-session", "handles-transient"] {
            let left = board.soft.tool("tpm2_getcap", &[what]);
            assert!(left.status.success() && left.stdout.is_empty(), "{what}: {left:?}");
        }
    }
}

#[test]
fn a_newer_image_that_the_vendor_signed_opens_without_a_new_seal() {
    for kind in [RSA, ECC] {
        let mut board = Board::sealed(kind);
        assert!(board.opens(&mut board.soft.connect(), &board.authority, &board.file), "premise");
        board.soft.reset();
        let mut tpm = board.soft.connect();
        measure(&mut tpm, "new");
        let newer = authority(&board.key, 2);
        let unsigned = board.refusal(&mut tpm, &newer, &board.file);
        assert!(matches!(unsigned, SignedError::NoEntry(NoEntry::OtherPolicy)), "{unsigned}");
        let file = signed(&mut tpm, &board.key, &pcrs(), 2).to_json().unwrap();
        assert!(board.opens(&mut tpm, &newer, &file));
        // And the old one, as long as the counter stands.
        drop(tpm);
        board.soft.reset();
        let mut tpm = board.soft.connect();
        measure(&mut tpm, "old");
        assert!(board.opens(&mut tpm, &board.authority, &board.file));
    }
}

#[test]
fn a_signature_of_another_key_is_refused() {
    for kind in [RSA, ECC] {
        let board = Board::sealed(kind);
        let mut tpm = board.soft.connect();
        assert!(board.opens(&mut tpm, &board.authority, &board.file), "premise");
        let other = key(kind);
        let file = signed(&mut tpm, &other, &pcrs(), 1).to_json().unwrap();
        let refusal = board.refusal(&mut tpm, &board.authority, &file);
        assert!(matches!(refusal, SignedError::NoEntry(NoEntry::OtherKey)), "{refusal}");
        // Its entry under the vendor's fingerprint: the TPM tells.
        let (ours, theirs) =
            (board.key.public().fingerprint().unwrap(), other.public().fingerprint().unwrap());
        let forged = file.replace(&theirs.to_string(), &ours.to_string());
        let refusal = board.refusal(&mut tpm, &board.authority, &forged);
        assert!(matches!(refusal, SignedError::BadSignature), "{refusal}");
        // An initramfs with the other key in it: the secret is not bound to it.
        let refusal = board.refusal(&mut tpm, &authority(&other, 1), &file);
        assert!(matches!(refusal, SignedError::OtherAuthority), "{refusal}");
        drop(tpm);
        assert_eq!(board.by_tools(&board.file, 1), Ok(()), "premise");
        assert_eq!(board.by_tools(&file, 1), Err("tpm2_verifysignature".to_owned()));
    }
}

#[test]
fn a_policy_for_other_pcrs_or_another_boot_is_refused() {
    let mut board = Board::sealed(ECC);
    let mut tpm = board.soft.connect();
    assert!(board.opens(&mut tpm, &board.authority, &board.file), "premise");
    let fewer: PcrSelection = "0,8,15".parse().unwrap();
    let other = signed(&mut tpm, &board.key, &fewer, 1).to_json().unwrap();
    let refusal = board.refusal(&mut tpm, &board.authority, &other);
    assert!(matches!(refusal, SignedError::NoEntry(NoEntry::OtherPcrs)), "{refusal}");
    let relabelled = other.replace("[0,8,15]", "[0,1,8,9,15]");
    let refusal = board.refusal(&mut tpm, &board.authority, &relabelled);
    assert!(matches!(refusal, SignedError::NoEntry(NoEntry::OtherPolicy)), "{refusal}");
    drop(tpm);

    board.soft.reset();
    let mut tpm = board.soft.connect();
    measure(&mut tpm, "evil");
    let refusal = board.refusal(&mut tpm, &board.authority, &board.file);
    assert!(matches!(refusal, SignedError::NoEntry(NoEntry::OtherPolicy)), "{refusal}");
    // The old boot's entry with this boot's policy in it.
    let policy = |file: &str| {
        let file = SignatureFile::from_json(file.as_bytes()).unwrap();
        file.entries().next().unwrap().policy.to_string()
    };
    let this = policy(&signed(&mut tpm, &key(ECC), &pcrs(), 1).to_json().unwrap());
    let changed = board.file.replace(&policy(&board.file), &this);
    let refusal = board.refusal(&mut tpm, &board.authority, &changed);
    assert!(matches!(refusal, SignedError::BadSignature), "{refusal}");
    drop(tpm);
    assert_eq!(board.by_tools(&board.file, 1), Err("tpm2_policyauthorize".to_owned()));
}

#[test]
fn a_changed_signature_is_refused_and_a_broken_file_says_so() {
    let board = Board::sealed(ECC);
    let mut tpm = board.soft.connect();
    assert!(board.opens(&mut tpm, &board.authority, &board.file), "premise");
    for sig in ["AAAA", "MAYCAQECAQE=", "MAA="] {
        let start = board.file.find("\"sig\":\"").unwrap() + 7;
        let end = start + board.file[start..].find('"').unwrap();
        let changed = format!("{}{sig}{}", &board.file[..start], &board.file[end..]);
        let refusal = board.refusal(&mut tpm, &board.authority, &changed);
        assert!(matches!(refusal, SignedError::BadSignature), "{sig}: {refusal}");
    }
    for broken in ["", "{\"sha256\":[{}]}", &board.file[1..]] {
        let refusal = board.refusal(&mut tpm, &board.authority, broken);
        assert!(matches!(refusal, SignedError::BadFile(_)), "{refusal}");
    }
    assert!(board.opens(&mut tpm, &board.authority, &board.file));
}

#[test]
fn an_old_image_is_refused_once_the_counter_has_moved() {
    let mut board = Board::sealed(RSA);
    let mut tpm = board.soft.connect();
    assert!(board.opens(&mut tpm, &board.authority, &board.file), "premise");
    drop(tpm);
    assert_eq!(board.by_tools(&board.file, 1), Ok(()), "premise");

    let mut tpm = board.soft.connect();
    let counter = tpm.counter(&board.authority.rollback()).unwrap();
    assert_eq!(tpm.advance_counter(counter, 2).unwrap(), (1, 2));
    assert_eq!(tpm.advance_counter(counter, 2).unwrap(), (2, 2), "again changes nothing");
    assert_eq!(tpm.advance_counter(counter, 1).unwrap(), (2, 2), "nor does less");
    let refusal = board.refusal(&mut tpm, &board.authority, &board.file);
    assert!(matches!(refusal, SignedError::CounterAhead { version: 1, value: 2 }), "{refusal}");
    // Neither does the TPM take a version that nobody signed.
    let newer = authority(&board.key, 2);
    let refusal = board.refusal(&mut tpm, &newer, &board.file);
    assert!(matches!(refusal, SignedError::NoEntry(NoEntry::OtherPolicy)), "{refusal}");
    drop(tpm);
    assert_eq!(board.by_tools(&board.file, 1), Err("tpm2_policynv".to_owned()));
    assert_eq!(board.by_tools(&board.file, 2), Err("tpm2_policyauthorize".to_owned()));

    // The same after a reset, and an image of version 2 opens.
    board.soft.reset();
    let mut tpm = board.soft.connect();
    measure(&mut tpm, "old");
    let refusal = board.refusal(&mut tpm, &board.authority, &board.file);
    assert!(matches!(refusal, SignedError::CounterAhead { version: 1, value: 2 }), "{refusal}");
    let file = signed(&mut tpm, &board.key, &pcrs(), 2).to_json().unwrap();
    assert!(board.opens(&mut tpm, &newer, &file));
}

#[test]
fn a_counter_that_was_removed_comes_back_no_lower() {
    let board = Board::sealed(ECC);
    let rollback = board.authority.rollback();
    let mut tpm = board.soft.connect();
    let counter = tpm.counter(&rollback).unwrap();
    tpm.advance_counter(counter, 5).unwrap();
    let five = authority(&board.key, 5);
    let file = signed(&mut tpm, &board.key, &pcrs(), 5).to_json().unwrap();
    assert!(board.opens(&mut tpm, &five, &file), "premise");
    drop(tpm);

    let index = format!("{COUNTER:#x}");
    let undefine = || {
        let gone = board.soft.tool("tpm2_nvundefine", &["-C", "o", &index]);
        assert!(gone.status.success(), "{gone:?}");
    };
    undefine();
    let mut tpm = board.soft.connect();
    let refusal = board.refusal(&mut tpm, &five, &file);
    assert!(matches!(refusal, SignedError::CounterMissing(COUNTER)), "{refusal}");
    assert_eq!(tpm.ensure_counter(&rollback).unwrap().1, 6, "one above what it was");
    let refusal = board.refusal(&mut tpm, &five, &file);
    assert!(matches!(refusal, SignedError::CounterAhead { version: 5, value: 6 }), "{refusal}");
    drop(tpm);

    // Something else in its place, with a value of the attacker's choice.
    undefine();
    std::fs::write(board.soft.dir().join("zero"), [0; 8]).unwrap();
    for (tool, args) in [
        ("tpm2_nvdefine", vec![&*index, "-C", "o", "-s", "8", "-a", "ownerwrite|authread|no_da"]),
        ("tpm2_nvwrite", vec![&*index, "-C", "o", "-i", "zero"]),
    ] {
        let ran = board.soft.tool(tool, &args);
        assert!(ran.status.success(), "{ran:?}");
    }
    let mut tpm = board.soft.connect();
    let refusal = board.refusal(&mut tpm, &five, &file);
    assert!(matches!(refusal, SignedError::ForeignCounter(COUNTER)), "{refusal}");
    let refusal = tpm.ensure_counter(&rollback).unwrap_err();
    assert!(matches!(refusal, SignedError::ForeignCounter(COUNTER)), "{refusal}");
    drop(tpm);
    // PolicyNV holds, its digest is of another index.
    assert_eq!(board.by_tools(&file, 5), Err("tpm2_policyauthorize".to_owned()));
}

#[test]
fn a_counter_is_made_once_and_a_cut_between_its_steps_does_no_harm() {
    let soft = SoftTpm::start();
    let rollback = authority(&key(ECC), 1).rollback();
    let mut tpm = soft.connect();
    let missing = tpm.counter(&rollback).unwrap_err();
    assert!(matches!(missing, SignedError::CounterMissing(COUNTER)), "{missing}");
    drop(tpm);
    // Cut after it was defined.
    let index = format!("{COUNTER:#x}");
    let attributes = "nt=counter|ownerwrite|authread|no_da";
    let made = soft.tool("tpm2_nvdefine", &[&index, "-C", "o", "-s", "8", "-a", attributes]);
    assert!(made.status.success(), "{made:?}");
    let mut tpm = soft.connect();
    let unborn = tpm.counter(&rollback).unwrap_err();
    assert!(matches!(unborn, SignedError::CounterMissing(COUNTER)), "{unborn}");
    for _ in 0..2 {
        assert_eq!(tpm.ensure_counter(&rollback).unwrap().1, 1);
    }
}

#[test]
fn the_latch_ends_unsealing_for_everybody() {
    let board = Board::sealed(ECC);
    assert_eq!(board.by_tools(&board.file, 1), Ok(()), "premise: tpm2-tools can read before");
    let mut tpm = board.soft.connect();
    assert!(board.opens(&mut tpm, &board.authority, &board.file), "premise");
    tpm.extend(pcr(15), &volume::words(OPENED_BY_HAND)).unwrap();
    let refusal = board.refusal(&mut tpm, &board.authority, &board.file);
    assert!(matches!(refusal, SignedError::NoEntry(NoEntry::OtherPolicy)), "{refusal}");
    drop(tpm);
    assert_eq!(board.by_tools(&board.file, 1), Err("tpm2_policyauthorize".to_owned()));
}

#[test]
fn a_second_read_in_one_boot_is_refused() {
    let board = Board::sealed(ECC);
    let mut tpm = board.soft.connect();
    for _ in 0..2 {
        assert!(board.opens(&mut tpm, &board.authority, &board.file), "premise: without the lock");
    }
    board.read(&mut tpm, &board.authority, &board.file, true).unwrap();
    let refusal = board.refusal(&mut tpm, &board.authority, &board.file);
    assert!(matches!(refusal, SignedError::Tpm(TpmError::Locked)), "{refusal}");
    drop(tpm);
    assert_eq!(board.by_tools(&board.file, 1), Err("tpm2_nvread".to_owned()));
}

#[test]
fn a_secret_that_is_bound_to_one_boot_is_told_apart() {
    let board = Board::sealed(ECC);
    let mut tpm = board.soft.connect();
    assert!(board.opens(&mut tpm, &board.authority, &board.file), "premise");
    let policy = policy::pcr_digest(&pcrs(), &tpm.pcrs(&pcrs()).unwrap()).unwrap();
    let sealing = Sealing { nv_index: INDEX, srk: SRK, policy };
    tpm.seal(sealing, &board.srk_name, &board.sealed).unwrap();
    let refusal = board.refusal(&mut tpm, &board.authority, &board.file);
    assert!(matches!(refusal, SignedError::OtherAuthority), "{refusal}");
}

#[test]
fn a_trial_tells_before_anything_is_sealed() {
    let soft = SoftTpm::start();
    let key = key(RSA);
    let mut tpm = soft.connect();
    measure(&mut tpm, "old");
    let srk_name = tpm.ensure_srk(SRK).unwrap();
    let (selection, authority) = (pcrs(), authority(&key, 1));
    let what =
        Unsealing { srk: SRK, srk_name: &srk_name, pcrs: &selection, nv_index: INDEX, lock: false };
    let good = signed(&mut tpm, &key, &selection, 1).to_json().unwrap();
    let trial = |tpm: &mut Tpm, file: &str| tpm.try_signed(what, &authority, file.as_bytes());
    let missing = trial(&mut tpm, &good).unwrap_err();
    assert!(matches!(missing, SignedError::CounterMissing(COUNTER)), "{missing}");
    let (counter, _) = tpm.ensure_counter(&authority.rollback()).unwrap();
    trial(&mut tpm, &good).unwrap();
    let plain = good.replace("\"sha256\"", "\"sha384\"");
    let refusal = trial(&mut tpm, &plain).unwrap_err();
    assert!(matches!(refusal, SignedError::NoEntry(NoEntry::OtherPcrs)), "{refusal}");
    tpm.advance_counter(counter, 2).unwrap();
    let refusal = trial(&mut tpm, &good).unwrap_err();
    assert!(matches!(refusal, SignedError::CounterAhead { version: 1, value: 2 }), "{refusal}");
}

#[test]
fn no_eight_bytes_of_the_secret_cross_the_bus() {
    let board = Board::sealed(RSA);
    let seal = board.soft.wire();
    let mut tpm = board.soft.connect();
    board.read(&mut tpm, &board.authority, &board.file, false).unwrap();
    drop(tpm);
    let unseal = board.soft.wire();
    assert_eq!(board.by_tools(&board.file, 1), Ok(()));
    let control = board.soft.wire();

    let secret = board.sealed.encode();
    let leaks = |wire: &str| secret.windows(8).any(|run| wire.contains(&hex::encode(run)));
    assert!(leaks(&control), "premise: an unencrypted read shows the secret on the bus");
    for (wire, what) in [(&seal, "sealing"), (&unseal, "unsealing")] {
        assert!(wire.contains(&hex::encode(INDEX.to_be_bytes())), "the capture saw {what}");
        assert!(!leaks(wire), "{what} leaks");
    }
}

#[test]
fn the_running_system_moves_the_counter_step_by_step() {
    let board = Board::sealed(ECC);
    let mut tpm = board.soft.connect();
    let newer = authority(&board.key, 3);
    for (to, want) in [(3, (1, 3)), (3, (3, 3)), (1, (3, 3))] {
        let moved = rollback::advance(&mut tpm, &newer, to).unwrap();
        assert_eq!((moved.from, moved.to), want, "to {to}");
    }
    let refusal = rollback::advance(&mut tpm, &newer, 1004).unwrap_err();
    assert!(refusal.is_refusal(), "{refusal}");
    assert_eq!(rollback::advance(&mut tpm, &newer, 4).unwrap().to, 4, "nothing was counted");
}

/// The configuration of a board whose disk is not there.
fn config(key: &SigningKey, version: u64) -> Config {
    let config = serde_json::json!({
        "schema": SCHEMA, "disk": "/dev/no-such-disk", "root_partition": 2, "boot_partition": 1,
        "mapper": "root", "provision": "in-place", "reserve_mib": 16,
        "nv_index": "0x01806d73", "srk": "0x81000001", "pcrs": [0, 1, 8, 9, 15],
        "recovery_tries": 3, "wait_seconds": 1, "signed": authority(key, version),
    });
    Config::parse(config.to_string().as_bytes()).unwrap()
}

#[test]
fn provisioning_touches_nothing_before_the_tpm_accepted_a_signature() {
    let soft = SoftTpm::start();
    let key = key(ECC);
    let mut tpm = soft.connect();
    measure(&mut tpm, "old");
    let file = |tpm: &mut Tpm, version| signed(tpm, &key, &pcrs(), version).to_json().unwrap();
    let (first, second) = (file(&mut tpm, 1), file(&mut tpm, 2));
    let reference = Manifest::builder("a", "b")
        .event(0, "x", b"x".as_slice(), "")
        .seal(&[0, 1, 8, 9, 15])
        .build()
        .unwrap()
        .reference();
    let mut run = |version, signatures: Result<&str, &str>| {
        let (config, consoles) = (config(&key, version), Consoles::default());
        let signatures = signatures.map(|file| file.into()).map_err(str::to_owned);
        let mut provisioning = Provisioning {
            config: &config,
            tpm: &mut tpm,
            consoles: &consoles,
            reference: &reference,
            signatures,
            cpu_has_aes: false,
        };
        provisioning.run(Step::Grow).unwrap_err()
    };
    // Premise: a good signature leads to the disk, which is not there.
    let error = run(1, Ok(&first));
    assert!(matches!(error, ProvisionError::Block(_)), "{error}");
    let error = run(1, Err("no such file"));
    assert!(matches!(error, ProvisionError::Signed(SignedError::NoFile(_))), "{error}");
    let error = run(1, Ok(&second));
    assert!(matches!(error, ProvisionError::Signed(SignedError::NoEntry(_))), "{error}");
    let error = run(2, Ok(&second));
    assert!(matches!(error, ProvisionError::Block(_)), "{error}");
    assert!(tpm.index(INDEX).unwrap().is_none(), "nothing was sealed");

    // A TPM with a history begins above the image's version, and says so.
    let counter = tpm.counter(&authority(&key, 1).rollback()).unwrap();
    tpm.advance_counter(counter, 3).unwrap();
    let (config, consoles) = (config(&key, 2), Consoles::default());
    let mut provisioning = Provisioning {
        config: &config,
        tpm: &mut tpm,
        consoles: &consoles,
        reference: &reference,
        signatures: Ok(second.into_bytes()),
        cpu_has_aes: false,
    };
    let error = provisioning.run(Step::Grow).unwrap_err();
    assert!(error.to_string().contains("set rollback = 3 or more"), "{error}");
}
