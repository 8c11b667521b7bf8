//! OP-TEE answers from Linux: a trusted application's whole way, and none where there
//! shall be none.

use std::{fs, path::Path, process::Command};

use image_builder::{
    component::{Component, SAMPLE_APPLICATION},
    demo::{journey::provision, record::pcr_rows},
    emu::{
        card::Card,
        device::Device,
        shell::{Shell, Status},
    },
    recipe::{Purpose, Target, TrustedApp},
};
use msec_tests::{
    built::{built, scratch},
    program::install,
    slots,
    tee::{NOT_FOUND, SESSION, application_package, open_session},
};

use crate::unseal_again::must;

const RECIPE: &str = "rpi3-op-tee.toml";
const BY_TPM: &str = "initramfs-unseal: unlocked by the TPM\n";

/// As docs/op-tee.md has it.
const TOOL: &str = "pkcs11-tool --module /usr/lib/aarch64-linux-gnu/libckteec.so.0";
const SO_PIN: &str = "87654321";
const PIN: &str = "12345678";

/// A smaller root provisions sooner.
fn smaller(recipe: &mut toml::Table) {
    let disk = recipe["disk"].as_table_mut().unwrap();
    disk.insert("boot_mib".to_owned(), 34.into());
    disk.insert("root_mib".to_owned(), 44.into());
}

/// What OP-TEE says to somebody who wants a session with `uuid`.
fn asked_for(shell: &mut Shell<'_>, uuid: &str, dir: &Path) -> String {
    for command in install(&open_session(uuid, dir), "/run/open-session") {
        must(shell, &command);
    }
    must(shell, "/run/open-session")
}

/// Gets a file.
fn bytes(shell: &mut Shell<'_>, path: &str) -> Vec<u8> {
    let text = must(shell, &format!("hexdump -v -e '1/1 \"%02x\"' {path}; echo"));
    let digits = text.trim().as_bytes();
    assert!(digits.len() >= 2 && digits.len().is_multiple_of(2), "{text:?}");
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// A signature over `message` by the token's key.
fn signed(shell: &mut Shell<'_>, message: &str) -> Vec<u8> {
    must(shell, &format!("printf '{message}' > /run/message"));
    let sign = "--sign --mechanism ECDSA-SHA256 --signature-format openssl --id 01";
    must(shell, &format!("{TOOL} --pin {PIN} {sign} -i /run/message -o /run/signature"));
    bytes(shell, "/run/signature")
}

/// Whether `signature` is one over `message`, by OpenSSL outside of the board.
fn verifies(key: &[u8], message: &str, signature: &[u8], dir: &Path) -> bool {
    let file = |name: &str, content: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-keyform", "DER", "-verify"]).arg(file("key.der", key));
    openssl.arg("-signature").arg(file("signature", signature));
    let output = openssl.arg(file("message", message.as_bytes())).output().unwrap();
    match (output.status.code(), String::from_utf8_lossy(&output.stdout).trim()) {
        (Some(0), "Verified OK") => true,
        (Some(1), "Verification failure") => false,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn as_predicted(card: &Card, status: &Status) {
    let manifest = card.manifest();
    for row in pcr_rows(manifest, manifest, &status.pcrs) {
        assert!(row.agrees(), "PCR {} is not as predicted: {row:?}", row.pcr);
    }
}

#[test]
fn a_key_made_in_the_secure_world_signs_and_outlives_a_power_cycle() {
    let dir = scratch("op-tee");
    let device =
        Device::new(&dir.join("device"), &built().image_of(RECIPE, smaller, Vec::new(), &dir))
            .unwrap();
    let _slot = slots::slot();
    let mut boot = device.boot("provision", &dir.join("provision")).unwrap();
    provision(&mut boot, |_| ()).unwrap();
    let mut shell = boot.userland().unwrap();
    must(&mut shell, "ls -l /dev/tee0 /dev/teepriv0; pidof tee-supplicant");
    as_predicted(&device.card, &shell.status().unwrap());
    assert_eq!(asked_for(&mut shell, TrustedApp::Pkcs11.uuid(), &dir), SESSION);
    assert_eq!(asked_for(&mut shell, SAMPLE_APPLICATION, &dir), NOT_FOUND);

    must(
        &mut shell,
        &format!("{TOOL} --init-token --slot-index 0 --label board --so-pin {SO_PIN}"),
    );
    must(&mut shell, &format!("{TOOL} --init-pin --login --so-pin {SO_PIN} --new-pin {PIN}"));
    let make = "--keypairgen --key-type EC:prime256v1 --id 01 --label device";
    must(&mut shell, &format!("{TOOL} --login --pin {PIN} {make}"));
    let listed = must(&mut shell, &format!("{TOOL} --login --pin {PIN} --list-objects"));
    let access = "sensitive, always sensitive, never extractable, local";
    assert!(listed.contains(access), "{listed}");
    must(&mut shell, &format!("{TOOL} --read-object --type pubkey --id 01 -o /run/key"));
    let key = bytes(&mut shell, "/run/key");

    let signature = signed(&mut shell, "23.4 degrees");
    assert!(verifies(&key, "23.4 degrees", &signature, &dir));
    assert!(!verifies(&key, "33.4 degrees", &signature, &dir));
    let wrong =
        format!("{TOOL} --pin 11111111 --sign --mechanism ECDSA-SHA256 --id 01 -i /run/message");
    let refused = shell.run(&format!("{wrong} 2>&1")).unwrap();
    assert!(refused.code != 0 && refused.text.contains("CKR_PIN_INCORRECT"), "{refused:?}");
    shell.power_off().unwrap();

    let mut boot = device.boot("again", &dir.join("again")).unwrap();
    boot.expect("the TPM unlocks the root", BY_TPM).unwrap();
    let mut shell = boot.userland().unwrap();
    as_predicted(&device.card, &shell.status().unwrap());
    let signature = signed(&mut shell, "24.5 degrees");
    assert!(verifies(&key, "24.5 degrees", &signature, &dir), "it is the same key");
    shell.power_off().unwrap();
}

/// The premise is the test above: the same program opens a session there.
#[test]
fn the_default_image_has_no_trusted_application() {
    let dir = scratch("op-tee-default");
    let device = Device::new(&dir.join("device"), &built().small_image(&dir)).unwrap();
    let _slot = slots::slot();
    let mut boot = device.boot("default", &dir.join("logs")).unwrap();
    provision(&mut boot, |_| ()).unwrap();
    let mut shell = boot.userland().unwrap();
    must(&mut shell, "ls /dev/tee0 /dev/teepriv0");
    for uuid in [TrustedApp::Pkcs11.uuid(), SAMPLE_APPLICATION] {
        assert_eq!(asked_for(&mut shell, uuid, &dir), NOT_FOUND, "{uuid}");
    }
}

/// An application that anybody could have signed lies where tee-supplicant takes it from.
/// The premise: the lab's OP-TEE loads it from the same place.
#[test]
#[ignore = "takes minutes; make test-long"]
fn an_application_signed_with_the_key_that_everybody_has_is_refused() {
    let all = scratch("op-tee-foreign");
    let lab = built().component_for(
        Target { op_tee: Purpose::Development, ..Target::default() },
        Component::Optee,
    );
    let file = lab.join(format!("{SAMPLE_APPLICATION}.ta"));
    let _slot = slots::slot();
    for (name, development, expected) in [("lab", true, SESSION), ("release", false, NOT_FOUND)] {
        let dir = all.join(name);
        fs::create_dir_all(&dir).unwrap();
        let package = application_package(&file, SAMPLE_APPLICATION, &dir);
        let change = |recipe: &mut toml::Table| {
            smaller(recipe);
            let components = recipe["components"].as_table_mut().unwrap();
            components.insert("op_tee_development".to_owned(), development.into());
        };
        let image = built().image_of(RECIPE, change, vec![package], &dir);
        let device = Device::new(&dir.join("device"), &image).unwrap();
        let mut boot = device.boot(name, &dir.join("logs")).unwrap();
        provision(&mut boot, |_| ()).unwrap();
        let mut shell = boot.userland().unwrap();
        must(
            &mut shell,
            &format!("ls -l /lib/optee_armtz/{SAMPLE_APPLICATION}.ta; pidof tee-supplicant"),
        );
        assert_eq!(asked_for(&mut shell, SAMPLE_APPLICATION, &dir), expected, "{name}");
        assert_eq!(asked_for(&mut shell, TrustedApp::Pkcs11.uuid(), &dir), SESSION, "{name}");
    }
}
