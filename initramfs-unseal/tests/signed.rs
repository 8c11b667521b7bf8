//! The binding `signed` against a software TPM: which signatures open. Each
//! refusal stands beside its premise: the same call works while the defence is
//! not in its way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use common::SoftTpm;
use common::vendor::*;
use initramfs_unseal::authority::SignedError;
use initramfs_unseal::guard::Guard;
use initramfs_unseal::status::{self, Bound, Objects};
use initramfs_unseal::tpm::{Sealing, Tpm, TpmError};
use initramfs_unseal::volume::{self, OPENED_BY_HAND};
use pcr_measure::pcr::PcrSelection;
use pcr_measure::policy;
use pcr_measure::signed_policy::{NoEntry, SignatureFile};

#[test]
fn what_was_sealed_comes_back_within_the_budget_of_commands() {
    for kind in [RSA, ECC] {
        let mut board = Board::sealed(kind);
        let mut approved = None;
        // The first boot of an image verifies its signature, later ones need not. A boot
        // opens a device besides, which is one more.
        for most in [15, 11] {
            board.soft.cut_power();
            let mut tpm = board.soft.connect();
            measure(&mut tpm, "old");
            let before = tpm.commands();
            let (got, kept) = board.unseal(&mut tpm, approved.as_ref(), &board.file).unwrap();
            assert_eq!(got.secret.expose(), board.sealed.secret.expose());
            for number in [15, 11] {
                tpm.extend(pcr(number), &volume::words("x")).unwrap();
            }
            assert_eq!(tpm.commands() - before, most);
            assert_eq!(kept.is_some(), approved.is_none(), "only what is new is kept");
            approved = approved.or(kept);
            let again = board.unseal(&mut tpm, approved.as_ref(), &board.file).unwrap_err();
            assert!(matches!(again, SignedError::NoEntry(NoEntry::OtherPolicy)), "{again}");
            drop(tpm);
            // No session, no key is left behind.
            for what in ["handles-loaded-session", "handles-transient"] {
                let left = board.soft.tool("tpm2_getcap", &[what]);
                assert!(left.status.success() && left.stdout.is_empty(), "{what}: {left:?}");
            }
        }
    }
}

/// What `approve` does for an update that is not installed yet: its policy is predicted,
/// and the ticket that the TPM gives for it spares the update's first boot the signature.
#[test]
fn an_update_that_was_approved_before_opens_without_its_signature() {
    for kind in [RSA, ECC] {
        let mut board = Board::sealed(kind);
        // The vendor signs what the update will measure; no TPM of this board's is there.
        let next = SoftTpm::start();
        let mut elsewhere = next.connect();
        measure(&mut elsewhere, "new");
        let predicted = elsewhere.pcrs(&pcrs()).unwrap();
        let file = signed(&mut elsewhere, &board.key, &pcrs(), 2);

        let (entry, version) = board.authority.choose_next(&file, &pcrs(), &predicted).unwrap();
        assert_eq!(version, 2);
        let mut tpm = board.soft.connect();
        let key = &board.authority.policy_key;
        let approved = tpm.approve_entry(key, &entry).unwrap();
        let mut forged = entry.clone();
        forged.policy = [7; 32].into();
        let refusal = tpm.approve_entry(key, &forged).unwrap_err();
        assert!(matches!(refusal, SignedError::BadSignature) && refusal.is_refusal(), "{refusal}");
        let other = tpm.pcrs(&pcrs()).unwrap();
        let none = board.authority.choose_next(&file, &pcrs(), &other).unwrap_err();
        assert_eq!(none, NoEntry::OtherPolicy);
        let none = board.authority.choose_next(&SignatureFile::new(), &pcrs(), &predicted);
        assert_eq!(none.unwrap_err(), NoEntry::OtherKey);
        drop(tpm);

        board.soft.cut_power();
        let mut tpm = board.soft.connect();
        measure(&mut tpm, "new");
        board.authority = authority(&board.key, 2);
        let before = tpm.commands();
        let nothing = SignatureFile::new().to_json().unwrap();
        let (got, kept) = board.unseal(&mut tpm, Some(&approved), &nothing).unwrap();
        assert_eq!(got.secret.expose(), board.sealed.secret.expose());
        // With the latch's two and the platform's one these are twelve.
        assert_eq!((tpm.commands() - before, kept), (9, None));
    }
}

/// What lies in the token is the card's word: a ticket that is not the TPM's own opens
/// nothing by itself, and costs nothing but a look at the signature.
#[test]
fn a_kept_approval_is_good_for_its_boot_and_its_tpm_alone() {
    let mut board = Board::sealed(ECC);
    let nothing = SignatureFile::new().to_json().unwrap();
    let mut tpm = board.soft.connect();
    let (_, kept) = board.unseal(&mut tpm, None, &board.file).unwrap();
    let kept = kept.unwrap();
    board.unseal(&mut tpm, Some(&kept), &nothing).expect("premise: without any signature");

    let mut ticket = kept.clone();
    ticket.ticket[0] ^= 1;
    let mut policy = kept.clone();
    policy.policy = [7; 32].into();
    let mut long = kept.clone();
    long.ticket = vec![0; 1000];
    for forged in [ticket, policy, long] {
        let refusal = board.unseal(&mut tpm, Some(&forged), &nothing).unwrap_err();
        assert!(matches!(refusal, SignedError::NoEntry(_)), "{refusal}");
        let (_, new) = board.unseal(&mut tpm, Some(&forged), &board.file).unwrap();
        assert_eq!(new.as_ref(), Some(&kept), "the TPM verifies anew");
    }
    // Another image, even of the vendor's, is not what was approved.
    drop(tpm);
    board.soft.cut_power();
    let mut tpm = board.soft.connect();
    measure(&mut tpm, "new");
    let refusal = board.unseal(&mut tpm, Some(&kept), &nothing).unwrap_err();
    assert!(matches!(refusal, SignedError::NoEntry(_)), "{refusal}");
    drop(tpm);
    // And the counter is asked in every boot.
    board.soft.cut_power();
    let mut tpm = board.soft.connect();
    measure(&mut tpm, "old");
    let (counter, _) = tpm.ensure_counter(&board.authority.rollback()).unwrap();
    tpm.advance_counter(counter, 2).unwrap();
    let refusal = board.unseal(&mut tpm, Some(&kept), &board.file).unwrap_err();
    assert!(matches!(refusal, SignedError::CounterAhead { version: 1, value: 2 }), "{refusal}");
}

#[test]
fn a_newer_image_that_the_vendor_signed_opens_without_a_new_seal() {
    for kind in [RSA, ECC] {
        let mut board = Board::sealed(kind);
        assert!(board.opens(&mut board.soft.connect(), &board.authority, &board.file), "premise");
        board.soft.cut_power();
        let mut tpm = board.soft.connect();
        measure(&mut tpm, "new");
        let newer = authority(&board.key, 2);
        let unsigned = board.refusal(&mut tpm, &newer, &board.file);
        assert!(matches!(unsigned, SignedError::NoEntry(NoEntry::OtherPolicy)), "{unsigned}");
        let file = signed(&mut tpm, &board.key, &pcrs(), 2).to_json().unwrap();
        assert!(board.opens(&mut tpm, &newer, &file));
        // And the old one, as long as the counter stands.
        drop(tpm);
        board.soft.cut_power();
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

    board.soft.cut_power();
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

/// The latch is in the index' own policy: a vendor who forgets it in a signed one opens
/// nothing behind it.
#[test]
fn a_policy_that_was_signed_without_the_latch_opens_nothing_behind_it() {
    let board = Board::sealed(ECC);
    let mut tpm = board.soft.connect();
    let fewer: PcrSelection = "0,1,8,9".parse().unwrap();
    let file = signed(&mut tpm, &board.key, &fewer, 1).to_json().unwrap();
    let read = |tpm: &mut Tpm| {
        let guard = board.authority.guard().unwrap();
        let index = tpm.index_of(INDEX, &guard)?.ok_or(TpmError::IndexMissing(INDEX))?;
        let what = board.what(&fewer, &guard, true);
        tpm.unseal_signed(&index, what, &board.authority, None, || {
            Ok(vec![file.clone().into_bytes()])
        })
    };
    for _ in 0..2 {
        read(&mut tpm).expect("premise: before the latch");
    }
    tpm.extend(pcr(15), &volume::words(OPENED_BY_HAND)).unwrap();
    let refusal = read(&mut tpm).unwrap_err();
    assert!(matches!(refusal, SignedError::Tpm(TpmError::PolicyFailed)), "{refusal}");
}

#[test]
fn status_tells_whether_the_secret_is_in_reach_and_where_the_counter_stands() {
    for by_hand in [false, true] {
        let board = Board::sealed(ECC);
        let mut tpm = board.soft.connect();
        let objects = Objects {
            root: "/dev/mmcblk0p2".into(),
            data_offset: 16 << 20,
            boot: "/dev/mmcblk0p1".into(),
            nv_index: INDEX,
            spare_index: SPARE,
            pin: false,
            srk: SRK,
            srk_name: board.srk_name.clone(),
            pcrs: pcrs(),
            signed: Some(board.authority.clone()),
            update_key: None,
        };
        assert_eq!(status::reach(&mut tpm, Some(&objects), None), "reachable", "premise");
        let want = Bound::Signed { version: 1, counter: COUNTER, value: Some(1) };
        assert_eq!(status::bound(&mut tpm, &objects, None), want);
        if !by_hand {
            board.read(&mut tpm, &board.authority, &board.file, true).unwrap();
        }
        tpm.extend(pcr(15), &volume::words(OPENED_BY_HAND)).unwrap();
        assert_eq!(status::reach(&mut tpm, Some(&objects), None), "unreachable");
        let back: Objects =
            serde_json::from_value(serde_json::to_value(&objects).unwrap()).unwrap();
        assert_eq!(back.signed, objects.signed);
    }
}

#[test]
fn a_secret_that_is_bound_to_one_boot_is_told_apart() {
    let board = Board::sealed(ECC);
    let mut tpm = board.soft.connect();
    assert!(board.opens(&mut tpm, &board.authority, &board.file), "premise");
    let policy = policy::pcr_digest(&pcrs(), &tpm.pcrs(&pcrs()).unwrap()).unwrap();
    let guard = Guard::one(policy);
    let sealing = Sealing { nv_index: INDEX, srk: SRK, guard: &guard, pin: None };
    tpm.seal(sealing, &board.srk_name, &board.sealed).unwrap();
    let refusal = board.refusal(&mut tpm, &board.authority, &board.file);
    assert!(matches!(refusal, SignedError::OtherAuthority), "{refusal}");
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
