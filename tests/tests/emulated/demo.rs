//! The journey of the demonstration, as assertions.

use image_builder::demo::BootRecord;
use msec_tests::shared::shared;

fn boot(name: &str) -> &'static BootRecord {
    shared().journey.boots.iter().find(|boot| boot.name == name).expect(name)
}

/// PCRs of a boot that differ from what the key was sealed to.
fn differing(name: &str) -> Vec<u8> {
    let rows = &boot(name).pcrs;
    rows.iter().filter(|row| row.as_sealed == Some(false)).map(|row| row.pcr).collect()
}

#[test]
fn the_whole_life_of_a_device() {
    let names: Vec<_> = shared().journey.boots.iter().map(|boot| boot.name.as_str()).collect();
    let expected = ["1-provision", "2-unlock", "3a-command-line", "3b-initramfs", "4-original"];
    assert_eq!(names, expected);

    for name in names {
        let boot = boot(name);
        assert_eq!(boot.pcrs.len(), 10, "{name}");
        for row in &boot.pcrs {
            assert!(row.agrees(), "{name}: PCR {} is not as predicted: {row:?}", row.pcr);
        }
        assert_eq!(boot.root, "/dev/mapper/root (ext4)", "{name}");
        assert_eq!(boot.secret.status, "unreachable", "{name}");
    }

    let by: Vec<_> = shared().journey.boots.iter().map(|b| b.unlocked_by.as_str()).collect();
    assert_eq!(by, ["provisioned", "tpm", "recovery", "recovery", "tpm"]);
    for (name, pcrs) in [
        ("1-provision", &[][..]),
        ("2-unlock", &[]),
        ("3a-command-line", &[1]),
        ("3b-initramfs", &[9]),
        ("4-original", &[]),
    ] {
        assert_eq!(differing(name), pcrs, "{name}");
    }
    for (name, component) in
        [("3a-command-line", "PCR 1, command line:"), ("3b-initramfs", "PCR 9, initramfs:")]
    {
        let named = &boot(name).differences;
        assert_eq!(named.len(), 1, "{name}: {named:?}");
        assert!(named[0].starts_with(component), "{name}: {named:?}");
        assert!(boot(name).refusal.is_some(), "{name}");
        let tools = boot(name).secret.tpm2_tools.as_deref().unwrap_or_default();
        assert!(tools.contains("0x99D") || tools.contains("0x148"), "{name}: {tools}");
    }
}

/// The premise of the count: the wire shows the read of the secret and its lock, and
/// initramfs-unseal counts the same.
#[test]
fn an_unlock_takes_twelve_tpm_commands_at_most() {
    for name in ["2-unlock", "4-original"] {
        let tpm = &boot(name).tpm;
        for command in ["PolicyPCR", "NV_Read", "NV_ReadLock", "PCR_Extend"] {
            assert!(tpm.unlock.iter().any(|c| c == command), "{name}: {command} in {tpm:?}");
        }
        assert!(tpm.unlock.len() <= 12, "{name}: {tpm:?}");
        assert_eq!(tpm.unlock.len(), tpm.reported as usize, "{name}: {tpm:?}");
        assert!(!tpm.unlock.iter().any(|c| c == "ContextSave" || c == "ContextLoad"), "{tpm:?}");
    }
}

#[test]
fn every_stage_of_the_chain_was_seen_in_order() {
    let chain = [
        "power-on",
        "TF-A BL1",
        "TF-A BL2",
        "TF-A BL31",
        "OP-TEE",
        "U-Boot",
        "FIT loaded",
        "Linux",
        "initramfs-unseal",
        "unlocked",
        "switch root",
        "userland",
    ];
    let seen: Vec<_> = boot("2-unlock").stages.iter().map(|stage| stage.name).collect();
    assert_eq!(seen, chain);
}

/// The recovery key is shown once, on the console, and nowhere else: not in any log
/// and not on the TPM's wire.
#[test]
fn the_recovery_key_is_in_no_log_and_on_no_wire() {
    let key = shared().recovery_key.expose();
    assert_eq!(key.len(), 71, "eight groups of eight letters");
    for boot in &shared().journey.boots {
        for entry in std::fs::read_dir(&boot.logs).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
                for group in key.split('-') {
                    assert!(!text.contains(group), "{}", path.display());
                }
            }
        }
        assert_eq!(boot.wire.leaks(key.as_bytes(), 8), 0, "{}", boot.name);
    }
}
