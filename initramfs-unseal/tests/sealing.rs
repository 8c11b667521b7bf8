//! Sealing and unsealing against a software TPM, with Debian's tpm2-tools as
//! the second opinion. Each refusal stands beside its premise: the same call
//! works while the defence is not in its way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use common::SoftTpm;
use initramfs_unseal::flow::IndexState;
use initramfs_unseal::guard::Guard;
use initramfs_unseal::sealed::Sealed;
use initramfs_unseal::secret::Secret;
use initramfs_unseal::tpm::{Sealing, Tpm, TpmError, Unsealing};
use initramfs_unseal::volume::{self, Fingerprint, OPENED_BY_HAND};
use pcr_measure::digest::Sha256Digest;
use pcr_measure::pcr::{PcrIndex, PcrSelection};
use pcr_measure::policy;
use std::path::Path;
use std::process::Output;

const INDEX: u32 = 0x0180_6d73;
const SRK: u32 = 0x8100_0001;
const PCRS: &str = "0,1,8,9,15";

/// Reads the index with tpm2-tools under the same policy.
fn nvread(soft: &SoftTpm) -> Output {
    let pcrs = format!("sha256:{PCRS}");
    for (program, args) in [
        ("tpm2_startauthsession", vec!["--policy-session", "-S", "s"]),
        ("tpm2_policypcr", vec!["-Q", "-S", "s", "-l", &pcrs]),
    ] {
        let out = soft.tool(program, &args);
        assert!(out.status.success(), "{program}: {out:?}");
    }
    let index = format!("{INDEX:#x}");
    let read = soft.tool("tpm2_nvread", &[&index, "-P", "session:s", "-o", "out"]);
    soft.tool("tpm2_flushcontext", &["s"]);
    read
}

struct Board {
    soft: SoftTpm,
    pcrs: PcrSelection,
    guard: Guard,
    srk_name: Vec<u8>,
    sealed: Sealed,
}

fn measure(tpm: &mut Tpm) {
    for number in [0, 1, 8, 9] {
        tpm.extend(PcrIndex::new(number).unwrap(), &volume::words("measured")).unwrap();
    }
}

impl Board {
    /// A TPM with something measured, and a secret sealed to it.
    fn sealed() -> Self {
        let soft = SoftTpm::start();
        let pcrs: PcrSelection = PCRS.parse().unwrap();
        let mut tpm = soft.connect();
        measure(&mut tpm);
        let policy = policy::pcr_digest(&pcrs, &tpm.pcrs(&pcrs).unwrap()).unwrap();
        let guard = Guard::one(policy);
        let srk_name = tpm.ensure_srk(SRK).unwrap();
        assert_eq!(tpm.ensure_srk(SRK).unwrap(), srk_name, "a second call keeps the key");
        let sealed = Sealed {
            secret: Secret::from_slice(&std::array::from_fn::<u8, 32, _>(|i| 0xa0 ^ i as u8))
                .unwrap(),
            fingerprint: Fingerprint([0x5a; 32]),
        };
        let what = Sealing { nv_index: INDEX, srk: SRK, guard: &guard, pin: None };
        tpm.seal(what, &srk_name, &sealed).unwrap();
        Self { soft, pcrs, guard, srk_name, sealed }
    }

    /// Measures what the key was sealed to where a reset has undone it, and unseals.
    fn unseal_anew(&self) {
        let mut tpm = self.soft.connect();
        let first = PcrIndex::new(0).unwrap();
        if tpm.pcrs(&"0".parse().unwrap()).unwrap().sha256(first) == Some(Sha256Digest::ZERO) {
            measure(&mut tpm);
        }
        self.unseal(&mut tpm, true).unwrap();
    }

    fn unseal(&self, tpm: &mut Tpm, lock: bool) -> Result<Sealed, TpmError> {
        let index = tpm.index_of(INDEX, &self.guard)?.ok_or(TpmError::IndexMissing(INDEX))?;
        let what = Unsealing {
            srk: SRK,
            srk_name: &self.srk_name,
            pcrs: &self.pcrs,
            guard: &self.guard,
            pin: None,
            nv_index: INDEX,
            lock,
        };
        tpm.unseal(&index, what)
    }
}

#[test]
fn what_was_sealed_comes_back_within_the_budget_of_commands() {
    let board = Board::sealed();
    let mut tpm = board.soft.connect();
    tpm.pcrs(&board.pcrs).unwrap();
    let got = board.unseal(&mut tpm, true).unwrap();
    assert_eq!(got.secret.expose(), board.sealed.secret.expose());
    assert_eq!(got.fingerprint, board.sealed.fingerprint);
    for pcr in [15, 11] {
        tpm.extend(PcrIndex::new(pcr).unwrap(), &volume::words("x")).unwrap();
    }
    // A boot opens a device, one command more, and reads no PCRs, one less.
    assert_eq!(tpm.commands(), 10);
}

#[test]
fn another_boot_is_refused() {
    for pcr in [0, 1, 8, 9] {
        let board = Board::sealed();
        let mut tpm = board.soft.connect();
        assert!(board.unseal(&mut tpm, false).is_ok(), "premise");
        tpm.extend(PcrIndex::new(pcr).unwrap(), &volume::words("changed")).unwrap();
        assert_eq!(board.unseal(&mut tpm, false).unwrap_err(), TpmError::PolicyFailed, "PCR {pcr}");
    }
}

#[test]
fn the_latch_ends_unsealing_for_everybody() {
    let board = Board::sealed();
    assert!(nvread(&board.soft).status.success(), "premise: tpm2-tools can read before the latch");
    let mut tpm = board.soft.connect();
    assert!(board.unseal(&mut tpm, false).is_ok(), "premise");
    tpm.extend(PcrIndex::new(15).unwrap(), &volume::words(OPENED_BY_HAND)).unwrap();
    assert_eq!(board.unseal(&mut tpm, false).unwrap_err(), TpmError::PolicyFailed);
    drop(tpm);
    assert!(!nvread(&board.soft).status.success(), "tpm2-tools reads past the latch");
}

#[test]
fn a_second_read_in_one_boot_is_refused() {
    let board = Board::sealed();
    let mut tpm = board.soft.connect();
    for _ in 0..2 {
        assert!(board.unseal(&mut tpm, false).is_ok(), "premise: without the lock it can be read");
    }
    assert!(board.unseal(&mut tpm, true).is_ok());
    assert_eq!(board.unseal(&mut tpm, false).unwrap_err(), TpmError::Locked);
    drop(tpm);
    assert!(!nvread(&board.soft).status.success(), "tpm2-tools reads past the lock");
}

fn tool(soft: &SoftTpm, line: &str) -> bool {
    let mut words = line.split_whitespace();
    soft.tool(words.next().unwrap(), &words.collect::<Vec<_>>()).status.success()
}

/// Uses a key that is under dictionary attack protection.
fn use_protected(soft: &SoftTpm, password: &str) -> bool {
    let create = format!("tpm2_create -Q -C primary.ctx -P {password} -u k.pub -r k.priv");
    let made = tool(soft, "tpm2_createprimary -Q -C o -p good -c primary.ctx");
    let flushed = made && tool(soft, "tpm2_flushcontext -t");
    let used = flushed && tool(soft, &create);
    assert!(tool(soft, "tpm2_flushcontext -t"));
    used
}

#[test]
fn a_lockout_does_not_stop_unsealing() {
    let board = Board::sealed();
    assert!(tool(&board.soft, "tpm2_dictionarylockout -s -n 1 -t 600 -l 600"));
    let used = ["good", "bad", "good"].map(|password| use_protected(&board.soft, password));
    assert_eq!(used, [true, false, false], "premise: one failure locks out what is protected");
    board.unseal(&mut board.soft.connect(), true).unwrap();
}

#[test]
fn power_cuts_after_unsealing_are_not_counted_as_attacks() {
    let mut board = Board::sealed();
    let failures = |soft: &SoftTpm| {
        let out = soft.tool("tpm2_getcap", &["properties-variable"]);
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines().find(|line| line.contains("LOCKOUT_COUNTER")).unwrap().trim().to_owned()
    };
    let at_first = failures(&board.soft);
    for cut in 1..=50 {
        board.unseal_anew();
        board.soft.cut_power();
        assert_eq!(failures(&board.soft), at_first, "after {cut} cuts");
    }
    board.unseal_anew();
    assert!(use_protected(&board.soft, "good"));
    board.soft.cut_power();
    assert_ne!(failures(&board.soft), at_first, "premise: where something protected was used");
}

#[test]
fn nothing_but_the_policy_reads_the_index() {
    let board = Board::sealed();
    assert!(nvread(&board.soft).status.success(), "premise");
    let index = format!("{INDEX:#x}");
    for auth in [["-C", "o"], ["-C", &index]] {
        let out = board.soft.tool("tpm2_nvread", &[&index, auth[0], auth[1], "-o", "out"]);
        assert!(!out.status.success(), "{auth:?}: {out:?}");
    }
}

#[test]
fn another_srk_is_not_trusted_with_the_session() {
    let board = Board::sealed();
    let mut tpm = board.soft.connect();
    assert!(board.unseal(&mut tpm, false).is_ok(), "premise");
    let mut other = Board { srk_name: board.srk_name.clone(), ..board };
    other.srk_name[10] ^= 1;
    assert_eq!(other.unseal(&mut tpm, false).unwrap_err(), TpmError::WrongSrk(SRK));
    drop(tpm);
    let handle = format!("{SRK:#x}");
    assert!(other.soft.tool("tpm2_evictcontrol", &["-C", "o", "-c", &handle]).status.success());
    let mut tpm = other.soft.connect();
    assert_eq!(other.unseal(&mut tpm, false).unwrap_err(), TpmError::SrkMissing(SRK));
}

#[test]
fn a_foreign_key_at_the_srk_handle_is_refused() {
    let soft = SoftTpm::start();
    let made = soft.tool("tpm2_createprimary", &["-Q", "-C", "o", "-G", "rsa2048", "-c", "k"]);
    assert!(made.status.success(), "{made:?}");
    let handle = format!("{SRK:#x}");
    let kept = soft.tool("tpm2_evictcontrol", &["-Q", "-C", "o", "-c", "k", &handle]);
    assert!(kept.status.success(), "{kept:?}");
    soft.tool("tpm2_flushcontext", &["-t"]);
    assert_eq!(soft.connect().ensure_srk(SRK).unwrap_err(), TpmError::ForeignSrk(SRK));
}

#[test]
fn a_finished_index_cannot_be_written_again() {
    let board = Board::sealed();
    let index = format!("{INDEX:#x}");
    std::fs::write(board.soft.dir().join("in"), [7; 65]).unwrap();
    let write =
        || board.soft.tool("tpm2_nvwrite", &[&index, "-C", "o", "-i", "in"]).status.success();
    assert!(write(), "premise: open, the owner can write it");
    let mut tpm = board.soft.connect();
    let public = tpm.index(INDEX).unwrap().unwrap();
    assert_eq!(public.state(), IndexState::Open);
    tpm.lock_index(&public, INDEX).unwrap();
    assert_eq!(tpm.index(INDEX).unwrap().unwrap().state(), IndexState::Locked);
    drop(tpm);
    assert!(!write(), "the owner writes a locked index");
}

#[test]
fn an_index_that_is_not_there_is_told_apart() {
    let soft = SoftTpm::start();
    assert!(soft.connect().index(INDEX).unwrap().is_none());
    let board = Board::sealed();
    let mut tpm = board.soft.connect();
    assert!(tpm.index(INDEX).unwrap().is_some());
    assert_eq!(
        Tpm::open(Path::new("/nonexistent")).unwrap_err(),
        TpmError::Absent("/nonexistent".into())
    );
}

#[test]
fn no_eight_bytes_of_the_secret_cross_the_bus() {
    let board = Board::sealed();
    let seal = board.soft.wire();
    let mut tpm = board.soft.connect();
    board.unseal(&mut tpm, false).unwrap();
    drop(tpm);
    let unseal = board.soft.wire();
    assert!(nvread(&board.soft).status.success());
    let control = board.soft.wire();

    let secret = board.sealed.encode();
    let leaks = |wire: &str| secret.windows(8).any(|run| wire.contains(&hex::encode(run)));
    assert!(leaks(&control), "premise: an unencrypted read shows the secret on the bus");
    assert!(seal.contains(&hex::encode(INDEX.to_be_bytes())), "the capture saw the commands");
    assert!(unseal.contains(&hex::encode(INDEX.to_be_bytes())), "the capture saw the commands");
    assert!(!leaks(&seal), "sealing leaks");
    assert!(!leaks(&unseal), "unsealing leaks");
}
