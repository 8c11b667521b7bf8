//! Once a root is open, nobody gets the secret out of the TPM again in that boot: not
//! root, not with other tools, not through another kernel, not after the driver was
//! taken off the TPM and put back.

use image_builder::{
    demo::journey::tpm2_tools_refused,
    emu::{
        device::Device,
        shell::{Shell, Status},
    },
};
use msec_tests::{
    built::{built, scratch},
    host_tpm::{HostTpm, selection},
    program::{call, install, program},
    shared::shared,
    slots,
};
use pcr_measure::{PcrIndex, Sha256Digest};

use crate::{
    check::{event_log_replays, says},
    ima::{list_begins_with_this_boot, trusted_keys_have_their_tpm},
};

/// The latch has been shut in this boot.
pub(crate) fn latched(status: &Status) {
    let latch = status.pcrs.sha256(PcrIndex::new(15).unwrap());
    assert!(latch.is_some_and(|value| value != Sha256Digest::ZERO), "PCR 15: {latch:?}");
}

/// Gets the text of a command that must do what it was to do.
pub(crate) fn must(shell: &mut Shell<'_>, command: &str) -> String {
    let output = shell.run(&format!("{command} 2>&1")).unwrap();
    assert_eq!(output.code, 0, "{command}: {}", output.text);
    output.text
}

/// Takes the kernel's driver off the TPM and puts it back; the TPM is not reset by it.
/// IMA keeps the first name, so that the TPM comes back under the second.
fn rebind(shell: &mut Shell<'_>) {
    const DRIVER: &str = "/sys/bus/i2c/drivers/tpm_tis_i2c";
    must(shell, &format!("echo 1-002e > {DRIVER}/unbind"));
    assert_ne!(shell.run("ls /dev/tpm0").unwrap().code, 0, "the driver is off");
    must(shell, &format!("echo 1-002e > {DRIVER}/bind"));
    must(shell, "ls /dev/tpm1 /dev/tpmrm1");
}

/// What a program that makes this system call exits with.
fn exit_code(shell: &mut Shell<'_>, number: u16, first: u16) -> i32 {
    let path = format!("/run/call-{number}");
    for command in install(&program(number, first), &path) {
        must(shell, &command);
    }
    shell.run(&path).unwrap().code
}

#[test]
fn nobody_unseals_again_in_a_boot_that_the_tpm_unlocked() {
    /// `EINVAL`, `ENOSYS`.
    const INVALID: i32 = 22;
    const NO_SUCH_CALL: i32 = 38;
    let dir = scratch("unseal-again");
    let device = shared().copy(&dir.join("device"), &shared().images.original);

    // The premise: with the same measurements and neither latch nor read lock, what the
    // tools try below gets the secret.
    let index = serde_json::to_value(built().recipe.tpm.nv_index).unwrap();
    let copy = HostTpm::power_on_copy(&device.tpm);
    copy.measure(built().image.manifest());
    for _ in 0..2 {
        let secret = copy.unseal(index.as_str().unwrap(), &selection(built().image.manifest()));
        assert_eq!(secret.map_err(|refusal| refusal.0).unwrap().len(), 65);
    }
    drop(copy);

    let _slot = slots::slot();
    let mut boot = device.boot("unseal-again", &dir.join("logs")).unwrap();
    boot.expect("the TPM unlocks", "initramfs-unseal: unlocked by the TPM\n").unwrap();
    let mut shell = boot.userland().unwrap();
    let status = shell.status().unwrap();
    assert_eq!((status.report.method.as_str(), status.sealed.as_str()), ("tpm", "unreachable"));
    latched(&status);
    list_begins_with_this_boot(&mut shell, &status);
    event_log_replays(&mut shell, &status);
    trusted_keys_have_their_tpm(&mut shell);
    tpm2_tools_refused(&mut shell, &status).unwrap();
    // Past the kernel's resource manager.
    must(&mut shell, "export TPM2TOOLS_TCTI=device:/dev/tpm0");
    tpm2_tools_refused(&mut shell, &status).unwrap();
    must(&mut shell, "tpm2_flushcontext -s; tpm2_flushcontext -l; tpm2_flushcontext -t");
    rebind(&mut shell);
    must(&mut shell, "export TPM2TOOLS_TCTI=device:/dev/tpmrm1");
    tpm2_tools_refused(&mut shell, &status).unwrap();

    // No other kernel can be started with the PCRs of this one. The premise: a call that
    // there is says that it did not like its arguments, so root may make it.
    assert_eq!(exit_code(&mut shell, call::REBOOT, 0), INVALID, "premise");
    for number in [call::KEXEC_LOAD, call::KEXEC_FILE_LOAD] {
        assert_eq!(exit_code(&mut shell, number, 0), NO_SUCH_CALL, "{number}");
    }
    shell.power_off().unwrap();
    assert!(!says(&boot.lines(), "enter the recovery key"), "nobody was asked");
}

/// Where the TPM counts failures of protected objects.
fn failures(device: &Device) -> String {
    let tpm = HostTpm::power_on_copy(&device.tpm);
    let text = String::from_utf8(tpm.must("tpm2_getcap properties-variable")).unwrap();
    text.lines().find(|line| line.contains("LOCKOUT_COUNTER")).unwrap().trim().to_owned()
}

/// A few cuts of a whole board; fifty of the TPM, and that such cuts do count where
/// something protected was used, are in initramfs-unseal's tests of sealing.
#[test]
fn cuts_right_after_an_unlock_never_make_the_board_ask() {
    let dir = scratch("cuts-after-unlock");
    let device = shared().copy(&dir.join("device"), &shared().images.original);
    let at_first = failures(&device);
    let _slot = slots::slot();
    for cut in 1..=3 {
        let name = format!("cut-{cut}");
        let mut boot = device.boot(&name, &dir.join(&name)).unwrap();
        boot.expect("unlocks by itself", "initramfs-unseal: unlocked by the TPM\n").unwrap();
        boot.board.cut_power();
        assert!(!says(&boot.lines(), "enter the recovery key"), "nobody was asked");
        assert_eq!(failures(&device), at_first, "after {cut} cuts");
    }
}
