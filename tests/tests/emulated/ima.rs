//! IMA finds the TPM, whatever bus it is on and however its driver probes: what the
//! running system measures stands in PCR 10.

use image_builder::emu::{
    device::Device,
    shell::{Shell, Status},
};
use msec_tests::{
    built::{built, scratch},
    program::{install, key_of_type},
    slots,
};
use pcr_measure::{PcrIndex, Sha256Digest};

use crate::{check::says, unseal_again::must};

/// IMA's list of measurements as text.
const LIST: &str = "/sys/kernel/security/ima/ascii_runtime_measurements";

/// What IMA says when there is no TPM for it, and never asks again in that boot
/// (Linux, `security/integrity/ima/ima_init.c`).
const BYPASS: &str = "No TPM chip found, activating TPM-bypass";

/// Where IMA must find a TPM: `[tpm] bus` and `device`.
const PLACES: [(&str, Option<&str>); 2] = [("i2c", None), ("spi", Some("slb9670"))];

fn pcr(status: &Status, number: u32) -> Sha256Digest {
    let value = status.pcrs.sha256(PcrIndex::new(number).unwrap());
    value.unwrap_or_else(|| panic!("PCR {number} in {:?}", status.pcrs))
}

/// IMA's first record ties its list to what came before it: a digest over PCR 0-9 as
/// the firmware left them. It is zeros when IMA had no TPM.
pub(crate) fn list_begins_with_this_boot(shell: &mut Shell<'_>, status: &Status) {
    must(shell, "[ -e /sys/kernel/security/ima ] || mount -t securityfs none /sys/kernel/security");
    let first = must(shell, &format!("head -n 1 {LIST}"));
    let pcrs: Vec<_> = (0..10).map(|number| pcr(status, number)).collect();
    let parts: Vec<&[u8]> = pcrs.iter().map(|value| value.as_bytes().as_slice()).collect();
    let expected = format!(" ima-ng sha256:{} boot_aggregate\n", Sha256Digest::of_parts(&parts));
    assert!(first.starts_with("10 ") && first.ends_with(&expected), "{first:?}: {expected:?}");
    assert_ne!(pcr(status, 10), Sha256Digest::ZERO, "PCR 10 holds the list");
}

/// Keys that the TPM guards, EVM's among them, can be loaded: the kernel has looked for
/// the TPM when it was there.
pub(crate) fn trusted_keys_have_their_tpm(shell: &mut Shell<'_>) {
    /// Linux, `include/uapi/asm-generic/errno-base.h`.
    const NO_SUCH_TYPE: i32 = 19;
    const INVALID: i32 = 22;
    for (name, expected) in [("none-such", NO_SUCH_TYPE), ("trusted", INVALID)] {
        let path = format!("/run/key-{name}");
        for command in install(&key_of_type(name), &path) {
            must(shell, &command);
        }
        assert_eq!(shell.run(&path).unwrap().code, expected, "{name}");
    }
}

/// Every boot up to the start of the initramfs: the TPM itself has seen IMA's extend
/// by then.
#[test]
#[ignore = "takes minutes; make test-long"]
fn ima_finds_the_tpm_in_every_boot() {
    let boots = std::env::var("MSEC_BOOTS").ok().and_then(|n| n.parse().ok()).unwrap_or(50);
    for (bus, board) in PLACES {
        let dir = scratch(&format!("ima-{bus}"));
        // A root that is neither encrypted nor to be: nothing changes on the card.
        let image = built().small_image_with(&dir, |recipe| {
            let mut set = |table: &str, key: &str, value: &str| {
                recipe[table].as_table_mut().unwrap().insert(key.to_owned(), value.into());
            };
            set("tpm", "bus", bus);
            if let Some(board) = board {
                set("tpm", "device", board);
            }
            set("provisioning", "mode", "never");
        });
        let device = Device::new(&dir.join("device"), &image).unwrap();
        let device = device.with_emulator(Some(built().emulator()));
        let _slot = slots::slot();
        let missed: Vec<u32> = (0..boots)
            .filter(|_| {
                let mut boot = device.boot("ima", &dir.join("logs")).unwrap();
                boot.expect("the initramfs starts", "initramfs-unseal: msec-boot ").unwrap();
                let extended = boot.board.wire.exchanges().iter().any(|e| e.is_ima_extend());
                boot.board.cut_power();
                let bypassed = says(&boot.lines(), BYPASS);
                assert_ne!(extended, bypassed, "the log of {} tells it as well", dir.display());
                bypassed
            })
            .collect();
        eprintln!("{bus}: IMA found the TPM in {} of {boots} boots", boots - missed.len() as u32);
        assert!(missed.is_empty(), "{bus}: IMA had no TPM in the boots {missed:?}");
    }
}
