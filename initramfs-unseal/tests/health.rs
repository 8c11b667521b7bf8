//! Whether a TPM is fit to be provisioned: every state that an operator must act
//! on, brought about with Debian's tpm2-tools. The premise stands beside each: the
//! same TPM is fit before, and again once it is done what the message says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use common::SoftTpm;
use common::fake_tpm::{FakeTpm, response};
use initramfs_unseal::flow::IndexState;
use initramfs_unseal::tpm::TpmError;
use initramfs_unseal::tpm::health::Unfit;
use initramfs_unseal::tpm::platform::Platform;

const INDEX: u32 = 0x0180_6d73;
const SRK: u32 = 0x8100_0001;
/// Attributes of our index in tpm2-tools' words, and some of another's.
const OURS: &str = "policyread|ownerwrite|no_da|read_stclear|writedefine";
const OTHERS: &str = "ownerread|ownerwrite";

fn check(soft: &SoftTpm) -> Result<(), Unfit> {
    soft.connect().check_fit(INDEX, SRK)
}

/// Runs a tool that must do what it is asked to.
fn run(soft: &SoftTpm, line: &str) {
    assert!(try_to(soft, line), "{line}");
}

fn try_to(soft: &SoftTpm, line: &str) -> bool {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap();
    soft.tool(program, &words.collect::<Vec<_>>()).status.success()
}

/// A TPM that is fit: the premise of every test.
fn fit() -> SoftTpm {
    let soft = SoftTpm::start();
    assert_eq!(check(&soft), Ok(()), "premise: a new TPM is fit");
    soft
}

#[test]
fn the_check_leaves_nothing_behind() {
    let soft = fit();
    for capability in ["handles-nv-index", "handles-persistent", "handles-transient"] {
        let out = soft.tool("tpm2_getcap", &[capability]);
        assert!(out.status.success() && out.stdout.is_empty(), "{capability}: {out:?}");
    }
    assert!(soft.connect().index(INDEX).unwrap().is_none());
}

#[test]
fn an_owner_password_is_refused() {
    let soft = fit();
    run(&soft, "tpm2_changeauth -c owner secret");
    assert_eq!(check(&soft), Err(Unfit::OwnerPassword { clear_disabled: false }));
    run(&soft, "tpm2_clearcontrol -C l s");
    assert_eq!(check(&soft), Err(Unfit::OwnerPassword { clear_disabled: true }));
    run(&soft, "tpm2_changeauth -c owner -p secret");
    assert_eq!(check(&soft), Ok(()));
}

#[test]
fn a_disabled_owner_hierarchy_is_refused_until_the_next_reset() {
    let soft = fit();
    run(&soft, "tpm2_hierarchycontrol -C o shEnable clear");
    assert_eq!(check(&soft), Err(Unfit::OwnerDisabled));
    run(&soft, "tpm2_hierarchycontrol -C p shEnable set");
    assert_eq!(check(&soft), Ok(()));
}

#[test]
fn a_lockout_is_refused_and_says_when_it_ends() {
    let soft = fit();
    run(&soft, "tpm2_dictionarylockout -s -n 2 -t 600 -l 600");
    run(&soft, "tpm2_createprimary -Q -C o -p good -c primary.ctx");
    for _ in 0..2 {
        assert_eq!(check(&soft), Ok(()), "premise: failures short of a lockout");
        run(&soft, "tpm2_flushcontext -t");
        assert!(!try_to(&soft, "tpm2_create -Q -C primary.ctx -P bad -u k.pub -r k.priv"));
    }
    run(&soft, "tpm2_flushcontext -t");
    let locked = |password| Unfit::Lockout { failures: 2, most: 2, interval: 600, password };
    assert_eq!(check(&soft), Err(locked(false)));
    run(&soft, "tpm2_changeauth -c lockout other");
    assert_eq!(check(&soft), Err(locked(true)));
    run(&soft, "tpm2_dictionarylockout -c -p other");
    assert_eq!(check(&soft), Ok(()));
}

#[test]
fn a_full_nv_memory_is_refused() {
    let soft = fit();
    for (first, size) in [(0x0150_0000_u32, 512), (0x0151_0000, 32)] {
        let define = |handle| format!("tpm2_nvdefine -Q -C o -s {size} -a {OTHERS} {handle:#x}");
        let refused = (first..).find(|handle| !try_to(&soft, &define(*handle)));
        assert_ne!(refused, Some(first), "premise: one of {size} bytes fits");
    }
    assert_eq!(check(&soft), Err(Unfit::NoNvSpace));
    run(&soft, "tpm2_nvundefine -C o 0x1500000");
    assert_eq!(check(&soft), Ok(()));
    assert!(soft.connect().index(INDEX).unwrap().is_none());
}

#[test]
fn a_tpm_without_a_persistent_slot_is_refused() {
    let soft = fit();
    run(&soft, "tpm2_createprimary -Q -C o -c primary.ctx");
    let mut made = 0_u32;
    while try_to(
        &soft,
        &format!("tpm2_evictcontrol -Q -C o -c primary.ctx {:#x}", 0x8101_0000 + made),
    ) {
        made += 1;
        run(&soft, "tpm2_flushcontext -t");
    }
    run(&soft, "tpm2_flushcontext -t");
    assert!(made > 0);
    assert_eq!(check(&soft), Err(Unfit::NoPersistentSlot));
    run(&soft, "tpm2_evictcontrol -Q -C o -c 0x81010000");
    assert_eq!(check(&soft), Ok(()));
}

#[test]
fn objects_of_others_at_our_handles_are_refused() {
    let soft = fit();
    let index = format!("{INDEX:#x}");
    for (attributes, size) in
        [("ownerread|ownerwrite", 65), ("policyread|ownerwrite|no_da|read_stclear|writedefine", 64)]
    {
        run(&soft, &format!("tpm2_nvdefine -Q -C o -s {size} -a {attributes} {index}"));
        assert_eq!(check(&soft), Err(Unfit::ForeignIndex), "{attributes} {size}");
        run(&soft, &format!("tpm2_nvundefine -C o {index}"));
    }
    run(&soft, "tpm2_createprimary -Q -C o -G rsa2048 -c k");
    run(&soft, &format!("tpm2_evictcontrol -Q -C o -c k {SRK:#x}"));
    run(&soft, "tpm2_flushcontext -t");
    assert_eq!(check(&soft), Err(Unfit::ForeignSrk));
    run(&soft, &format!("tpm2_evictcontrol -Q -C o -c {SRK:#x}"));
    assert_eq!(check(&soft), Ok(()));
}

/// The trial index as a power cut leaves it: defined, not written.
#[test]
fn a_check_that_was_cut_is_found_fit_and_provisioning_still_unfinished() {
    let soft = fit();
    run(&soft, &format!("tpm2_nvdefine -Q -C o -s 65 -a {OURS} {INDEX:#x}"));
    let index = soft.connect().index(INDEX).unwrap().unwrap();
    assert_eq!(index.state(), IndexState::Open);
    assert_eq!(check(&soft), Ok(()));
    let mut tpm = soft.connect();
    tpm.ensure_srk(SRK).unwrap();
    tpm.check_fit(INDEX, SRK).unwrap();
}

#[test]
fn a_tpm_that_was_not_started_is_told_apart() {
    let soft = fit();
    let stopped = SoftTpm::start_with("not-need-init");
    assert_eq!(check(&stopped), Err(Unfit::Tpm(TpmError::NotStarted)));
    drop(soft);
    run(&stopped, "tpm2_startup -c");
    assert_eq!(check(&stopped), Ok(()));
}

/// The same states met by a command, as when they come up after the check.
#[test]
fn a_command_that_meets_such_a_state_names_it() {
    let cases: [(&[&str], TpmError); 3] = [
        (&["tpm2_changeauth -c owner secret"], TpmError::OwnerAuth),
        (&["tpm2_hierarchycontrol -C o shEnable clear"], TpmError::HierarchyDisabled),
        (&["tpm2_createprimary -Q -C o -c primary.ctx"; 3], TpmError::MemoryFull),
    ];
    for (lines, want) in cases {
        let soft = fit();
        for line in lines {
            run(&soft, line);
        }
        assert_eq!(soft.connect().ensure_srk(SRK), Err(want), "{lines:?}");
    }
    assert!(fit().connect().ensure_srk(SRK).is_ok(), "premise");
}

/// TPM2_GetTestResult, then TPM2_GetCapability: failure mode answers both (part 3, 10.4).
#[test]
fn a_failed_self_test_is_refused_and_one_that_is_not_over_is_not() {
    const GET_TEST_RESULT: u32 = 0x17c;
    let with = |result: u32| {
        let tpm = FakeTpm::start(move |code, _| match code {
            GET_TEST_RESULT => response(0, &[&[0, 0][..], &result.to_be_bytes()].concat()),
            _ => response(0x12d, &[]),
        });
        tpm.connect().check_fit(INDEX, SRK)
    };
    assert_eq!(with(0x101), Err(Unfit::Tpm(TpmError::FailureMode)));
    for fine in [0, 0x153, 0x90a] {
        // On to the next command.
        assert_eq!(with(fine), Err(Unfit::Tpm(TpmError::Upgrade)), "{fine:#x}");
    }
}

#[test]
fn a_busy_tpm_is_asked_again_and_not_for_ever() {
    const TWO_BYTES: &[u8] = &[0, 2, 0xab, 0xcd];
    for busy in [0x922, 0x90a, 0x908] {
        let tpm = FakeTpm::start(move |_, before| match before {
            0..4 => response(busy, &[]),
            _ => response(0, TWO_BYTES),
        });
        assert_eq!(tpm.connect().random().unwrap().as_slice(), [0xab, 0xcd], "{busy:#x}");
        assert_eq!(tpm.commands(), 5, "{busy:#x}");

        let tpm = FakeTpm::start(move |_, _| response(busy, &[]));
        assert_eq!(tpm.connect().random().unwrap_err(), TpmError::Busy, "{busy:#x}");
        assert_eq!(tpm.commands(), 5, "{busy:#x}");
    }
}

#[test]
fn after_it_is_closed_nobody_uses_the_platform_hierarchy() {
    let soft = SoftTpm::start();
    let uses = [
        "tpm2_createprimary -Q -C p -c p.ctx",
        "tpm2_nvdefine -Q -C p -s 8 -a ppread|ppwrite|platformcreate 0x1400001",
        "tpm2_clear -c p",
        "tpm2_hierarchycontrol -C p shEnable set",
        "tpm2_pcrallocate sha256:all",
    ];
    for line in uses {
        assert!(try_to(&soft, line), "premise: {line}");
        run(&soft, "tpm2_flushcontext -t");
    }
    run(&soft, "tpm2_nvundefine -C p 0x1400001");
    let mut tpm = soft.connect();
    assert_eq!(tpm.close_platform(), Platform::Disabled);
    assert_eq!(tpm.close_platform(), Platform::Disabled, "a second time");
    drop(tpm);
    for line in uses {
        assert!(!try_to(&soft, line), "{line}");
    }
    assert!(!try_to(&soft, "tpm2_hierarchycontrol -C p phEnable set"), "it is opened again");
    assert_eq!(check(&soft), Ok(()), "the owner's hierarchy still serves");
}

#[test]
fn a_platform_with_a_password_is_told_apart() {
    let soft = SoftTpm::start();
    run(&soft, "tpm2_changeauth -c platform firmware");
    assert_eq!(soft.connect().close_platform(), Platform::Password);
    assert!(!try_to(&soft, "tpm2_createprimary -Q -C p -c p.ctx"));
    assert!(try_to(&soft, "tpm2_createprimary -Q -C p -P firmware -c p.ctx"), "premise");
}
