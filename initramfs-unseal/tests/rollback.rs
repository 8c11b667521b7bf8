//! Rollback protection of the binding `signed` against a software TPM: the
//! counter, and what provisioning does about it. Each refusal stands beside its
//! premise.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use common::SoftTpm;
use common::vendor::*;
use initramfs_unseal::authority::SignedError;
use initramfs_unseal::config::{Config, SCHEMA};
use initramfs_unseal::console::Consoles;
use initramfs_unseal::flow::Step;
use initramfs_unseal::provision::{ProvisionError, Provisioning};
use initramfs_unseal::rollback;
use initramfs_unseal::tpm::{Tpm, Unsealing};
use pcr_measure::key::SigningKey;
use pcr_measure::manifest::Manifest;
use pcr_measure::signed_policy::NoEntry;

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
    board.soft.cut_power();
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
fn a_trial_tells_before_anything_is_sealed() {
    let soft = SoftTpm::start();
    let key = key(RSA);
    let mut tpm = soft.connect();
    measure(&mut tpm, "old");
    let srk_name = tpm.ensure_srk(SRK).unwrap();
    let (selection, authority) = (pcrs(), authority(&key, 1));
    let what = Unsealing {
        srk: SRK,
        srk_name: &srk_name,
        pcrs: &selection,
        guard: &authority.guard().unwrap(),
        pin: None,
        nv_index: INDEX,
        lock: false,
    };
    let good = signed(&mut tpm, &key, &selection, 1).to_json().unwrap();
    let trial =
        |tpm: &mut Tpm, file: &str| tpm.try_signed(what, &authority, &[file.as_bytes().to_vec()]);
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
        "nv_index": "0x01806d73", "spare_index": "0x01806d75", "srk": "0x81000001", "pcrs": [0, 1, 8, 9, 15],
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
    let manifest = Manifest::builder("a", "b")
        .event(0, "x", b"x".as_slice(), "")
        .seal(&[0, 1, 8, 9, 15])
        .build()
        .unwrap();
    let reference = manifest.reference();
    let mut run = |version, signatures: Result<&str, &str>| {
        let (config, consoles) = (config(&key, version), Consoles::default());
        let signatures = signatures.map(|file| vec![file.into()]).map_err(str::to_owned);
        let mut provisioning = Provisioning {
            config: &config,
            tpm: &mut tpm,
            consoles: &consoles,
            reference: &reference,
            manifest: &manifest,
            signatures,
            cpu_has_aes: false,
            pin: None,
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
        manifest: &manifest,
        signatures: Ok(vec![second.into_bytes()]),
        cpu_has_aes: false,
        pin: None,
    };
    let error = provisioning.run(Step::Grow).unwrap_err();
    assert!(error.to_string().contains("set rollback = 3 or more"), "{error}");
}
