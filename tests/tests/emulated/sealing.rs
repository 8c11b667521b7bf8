//! The premises of the seal, with tpm2-tools on a copy of a provisioned TPM: who
//! has the right measurements gets the secret, and nobody else.

use emulated_board::wire::command;
use msec_tests::{
    built::{built, scratch},
    host_tpm::{HostTpm, Refusal, selection},
    shared::shared,
    slots,
};
use pcr_measure::Sha256Digest;

use crate::check::no_shell;

/// `TPM_RC_POLICY_FAIL` of session 1, as tpm2-tools print it.
const POLICY_FAIL: &str = "0x99D";
/// `TPM_RC_NV_LOCKED`.
const NV_LOCKED: &str = "0x148";

/// The provisioned device's TPM and the index the image names.
fn provisioned() -> (HostTpm, String) {
    let dir = scratch("sealing");
    let device = shared().copy(&dir.join("device"), &shared().images.original);
    let index = serde_json::to_value(built().recipe.tpm.nv_index).unwrap();
    (HostTpm::power_on_copy(&device.tpm), index.as_str().unwrap().to_owned())
}

fn unseal(tpm: &HostTpm, index: &str) -> Result<Vec<u8>, Refusal> {
    tpm.unseal(index, &selection(built().image.manifest()))
}

fn refused(result: Result<Vec<u8>, Refusal>, code: &str, what: &str) {
    match result {
        Ok(_) => panic!("{what}: the TPM gave the secret out"),
        Err(Refusal(why)) => assert!(why.contains(code), "{what}: {why}"),
    }
}

/// One test, because every step needs a TPM that was just powered on, and all of
/// them share its one provisioning.
#[test]
fn the_tpm_gives_the_secret_to_the_right_measurements_alone() {
    let manifest = built().image.manifest();

    let (tpm, index) = provisioned();
    tpm.measure(manifest);
    let secret = unseal(&tpm, &index).map_err(|Refusal(why)| why).unwrap();
    assert_eq!(secret.len(), 65, "version, 32 bytes of secret, 32 of fingerprint");
    // The latch: one extend of PCR 15, and nothing can be unsealed any more.
    tpm.extend(15, &Sha256Digest::of(b"latched"));
    refused(unseal(&tpm, &index), POLICY_FAIL, "after the latch");

    let (tpm, index) = provisioned();
    refused(unseal(&tpm, &index), POLICY_FAIL, "nothing measured");
    tpm.must("tpm2_pcrreset 16"); // the tools reach this TPM at all
    let owner = tpm.tool(&format!("tpm2_nvread -C o {index}"));
    assert!(owner.is_err(), "the owner cannot read the index");
    let plain = tpm.tool(&format!("tpm2_nvread -C {index} {index}"));
    assert!(plain.is_err(), "an empty password does not read the index");
    std::fs::write(tpm.file("other"), [0; 65]).unwrap();
    let write = tpm.tool(&format!("tpm2_nvwrite -C o -i other {index}"));
    assert!(write.is_err(), "the owner cannot overwrite the index");

    let (tpm, index) = provisioned();
    for event in manifest.events() {
        let kernel = event.component == "kernel";
        let other = Sha256Digest::of(b"another kernel");
        tpm.extend(event.pcr.get(), if kernel { &other } else { &event.digest });
    }
    refused(unseal(&tpm, &index), POLICY_FAIL, "another kernel");

    let (tpm, index) = provisioned();
    tpm.measure(manifest);
    tpm.must("tpm2_startauthsession --policy-session -S lock");
    let pcrs = selection(manifest);
    tpm.must(&format!("tpm2_policypcr -Q -S lock -l sha256:{pcrs}"));
    tpm.must(&format!("tpm2_nvreadlock -C {index} -P session:lock {index}"));
    refused(unseal(&tpm, &index), NV_LOCKED, "after the read lock");
}

/// A sniffer on the bus sees the read of the secret, and not the secret.
#[test]
fn no_byte_run_of_the_secret_crosses_the_bus() {
    let (tpm, index) = provisioned();
    tpm.measure(built().image.manifest());
    let sealed = unseal(&tpm, &index).map_err(|Refusal(why)| why).unwrap();
    let (secret, fingerprint) = (&sealed[1..33], &sealed[33..]);

    let boots = &shared().journey.boots;
    for (name, wanted) in [("1-provision", 0x137), ("2-unlock", command::NV_READ)] {
        let boot = boots.iter().find(|boot| boot.name == name).unwrap();
        let seen = boot.wire.exchanges();
        // The premises: the command that carries the secret did pass, and succeeded; and
        // what passes in clear is found by the same search.
        let carried = seen.iter().any(|e| e.code() == Some(wanted) && e.response_code() == Some(0));
        assert!(carried, "{name}: {wanted:#x} passed");
        for event in built().image.manifest().events() {
            let found = boot.wire.leaks(event.digest.as_bytes(), 8);
            assert_ne!(found, 0, "{name}: the digest of {}", event.component);
        }
        assert_eq!(boot.wire.leaks(secret, 8), 0, "{name}: secret");
        assert_eq!(boot.wire.leaks(fingerprint, 8), 0, "{name}: fingerprint");
    }
}

/// A card alone is worth nothing, and neither is a board alone.
#[test]
fn card_and_tpm_belong_together() {
    let dir = scratch("stolen-card");
    let mut device = shared().copy(&dir.join("device"), &shared().images.original);
    device.tpm = emulated_board::SoftTpm::create(&dir.join("other-tpm"), "sha256").unwrap();
    let _slot = slots::slot();
    let mut boot = device.boot("stolen-card", &dir.join("logs")).unwrap();
    boot.expect("no secret in this TPM", "the TPM holds no secret for this root").unwrap();
    boot.type_recovery_key(&shared().recovery_key).unwrap();
    boot.expect("the key still opens it", "unlocked by the recovery key\n").unwrap();
    no_shell(&boot.lines());
}
