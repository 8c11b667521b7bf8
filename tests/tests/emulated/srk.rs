//! A TPM that answers with another storage root key than the one the root was sealed
//! under: what a board sees of a swapped TPM, and of somebody on the wires who wants the
//! session salted with a key of their own.

use emulated_board::wire::{Exchange, command};
use image_builder::emu::{
    boot::{Boot, PATIENCE},
    shell::Status,
};
use msec_tests::{
    attacker::{edit, replace_root, root_partition},
    built::{built, scratch},
    host_tpm::{HostTpm, selection},
    shared::shared,
    slots,
};

use crate::check::{before_the_userland, no_shell};

/// The TPM commands of `initramfs-unseal` up to the line that holds `last`.
fn commands(boot: &Boot, last: &str) -> Vec<Exchange> {
    let seen = boot.commands_between("initramfs-unseal: msec-boot ", last);
    assert!(!seen.is_empty(), "the wire was seen up to `{last}`");
    seen
}

/// A key whose Name is not the pinned one gets no session, and this is all that the
/// pinned Name is for: the TPM itself would give the secret out, and so does the board
/// once the other Name is pinned.
#[test]
fn another_storage_root_key_is_not_trusted_with_a_session() {
    let dir = scratch("other-srk");
    let device = shared().copy(&dir.join("device"), &shared().images.original);
    let srk = serde_json::to_value(built().recipe.tpm.srk).unwrap();
    let srk = srk.as_str().unwrap();
    let handle = u32::from_str_radix(srk.trim_start_matches("0x"), 16).unwrap();

    let tpm = HostTpm::power_on(&device.tpm);
    let pinned = tpm.name(srk);
    tpm.must(&format!("tpm2_evictcontrol -Q -C o -c {srk}"));
    // The tools' own template: P-256 too, but another key.
    tpm.must("tpm2_createprimary -Q -C o -G ecc256 -c other");
    tpm.must(&format!("tpm2_evictcontrol -Q -C o -c other {srk}"));
    let other = tpm.name(srk);
    assert_ne!(other, pinned);
    drop(tpm);

    // The premise: whoever has the right measurements gets the secret from this TPM.
    let index = serde_json::to_value(built().recipe.tpm.nv_index).unwrap();
    let copy = HostTpm::power_on_copy(&device.tpm);
    copy.measure(built().image.manifest());
    let secret = copy.unseal(index.as_str().unwrap(), &selection(built().image.manifest()));
    assert_eq!(secret.map_err(|refusal| refusal.0).unwrap().len(), 65);
    drop(copy);

    let slot = slots::slot();
    let mut boot = device.boot("other-srk", &dir.join("refused")).unwrap();
    let refusal = "initramfs-unseal: the TPM did not release the key: ([^\n]*)\n";
    let said = boot.board.console.wait(refusal, PATIENCE).unwrap();
    let why = format!("the storage root key at {handle:#010x} is not the one");
    assert!(said.text.contains(&why), "{}", said.text);
    assert!(said.text.contains("something sits between"), "{}", said.text);
    boot.type_recovery_key(&shared().recovery_key).unwrap();
    boot.expect("the key opens", "unlocked by the recovery key\n").unwrap();
    for code in [command::START_AUTH_SESSION, command::NV_READ] {
        let passed = commands(&boot, "unlocked by the recovery key");
        assert!(passed.iter().all(|e| e.code() != Some(code)), "{code:#x} was sent");
    }
    let mut shell = boot.userland().unwrap();
    // Not Shell::status(), which wants exit code 0: with this key there is no knowing.
    let output = shell.run("initramfs-unseal status --format json").unwrap();
    assert_eq!(output.code, 2, "{}", output.text);
    let status: Status = serde_json::from_str(&output.text).unwrap();
    assert!(status.sealed.starts_with("unknown: the storage root key"), "{}", status.sealed);
    assert_eq!(status.report.method, "recovery");
    crate::unseal_again::latched(&status);
    image_builder::demo::journey::tpm2_tools_refused(&mut shell, &status).unwrap();
    shell.power_off().unwrap();
    no_shell(before_the_userland(&boot.lines()));

    // The premise: with the other Name pinned, this board trusts the other key.
    let mut root = root_partition(&device.card);
    edit(&mut root, |json| {
        let tokens = json["tokens"].as_object_mut().unwrap();
        let ours = tokens.values_mut().find(|token| token.to_string().contains(&pinned)).unwrap();
        *ours = serde_json::from_str(&ours.to_string().replace(&pinned, &other)).unwrap();
    });
    replace_root(&device.card, &root);
    let mut boot = device.boot("pinned", &dir.join("pinned")).unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let seen = commands(&boot, "unlocked by the TPM");
    let salted = |e: &Exchange| {
        e.code() == Some(command::START_AUTH_SESSION) && e.handles().first() == Some(&handle)
    };
    assert!(seen.iter().any(salted), "a session was salted with the other key");
    boot.board.cut_power();
    drop(slot);
}
