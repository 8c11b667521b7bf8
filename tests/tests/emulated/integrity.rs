//! What runs is held to the recipe's profile: the kernel takes our rules and no others, runs
//! what is signed, refuses what is not, and its list is the one that the reference foretells.

use std::{fs, path::Path};

use ima_policy::{
    judge::{Fault, Judge},
    list::Record,
    policy::{Kernel, Rule},
    reference::Reference,
};
use image_builder::{
    component::Component,
    demo::{journey::provision, record::Ran},
    emu::{boot::Boot, card::Card, device::Device, shell::Shell},
};
use msec_tests::{
    built::{built, scratch, tree},
    program::{call, install, program},
    slots,
};

use crate::unseal_again::must;

/// Where IMA is spoken to.
const IMA: &str = "/sys/kernel/security/ima";
/// Exit code of a shell for what may not be run (POSIX, 2.8.2).
const REFUSED: i32 = 126;

/// A small image with this profile, and a kernel that loads modules or not.
fn image(dir: &Path, profile: &str, modules: bool) -> Card {
    built().small_image_with(dir, |recipe| {
        let integrity = toml::Table::from_iter([("profile".to_owned(), profile.into())]);
        recipe.insert("integrity".to_owned(), integrity.into());
        let kernel = recipe["kernel"].as_table_mut().unwrap();
        kernel.insert("modules".to_owned(), modules.into());
        // Room for them; every MiB is encrypted by the first boot.
        let disk = recipe["disk"].as_table_mut().unwrap();
        disk.insert("root_mib".to_owned(), if modules { 20 } else { 16 }.into());
    })
}

/// The reference that was made with the image.
fn reference(card: &Card) -> Reference {
    let path = card.path().with_extension("reference.json");
    Reference::from_json(&fs::read(path).unwrap()).unwrap()
}

/// A first boot up to the shell.
fn first_boot(device: &Device, dir: &Path) -> Boot {
    let mut boot = device.boot("integrity", &dir.join("logs")).unwrap();
    provision(&mut boot, |_| ()).unwrap();
    boot
}

/// IMA's list, whose PCR the TPM has.
fn list(shell: &mut Shell<'_>) -> Vec<Record> {
    let status = shell.status().unwrap();
    let records = shell.measurements().unwrap();
    let ran = Ran::of(&records, None, &status.pcrs).unwrap();
    assert!(ran.leads_to_pcr, "the list leads to PCR 10");
    records
}

/// What a reference finds wrong with a list: names and faults.
fn faults(records: &[Record], reference: &Reference) -> Vec<(String, Fault)> {
    let judge = Judge { reference: Some(reference), ..Judge::default() };
    (1..)
        .zip(records)
        .filter_map(|(entry, record)| {
            let name = String::from_utf8_lossy(record.name().unwrap_or_default()).into_owned();
            Some((name, judge.judge(entry, record).unwrap()?))
        })
        .collect()
}

/// Starts a program, and says how it ended.
fn run(shell: &mut Shell<'_>, command: &str) -> i32 {
    shell.run(&format!("{command} 2>/dev/null")).unwrap().code
}

#[test]
fn the_kernel_takes_the_rules_that_are_said_to_be_taken_and_no_others() {
    let dir = scratch("integrity-rules");
    let card = image(&dir, "none", false);
    let config = built().component(Component::Kernel).join("config");
    let kernel = Kernel::new("6.12").unwrap();
    let kernel = kernel.with_config(&fs::read_to_string(config).unwrap()).unwrap();
    let device = Device::new(&dir.join("device"), &card).unwrap();
    let _slot = slots::slot();
    let mut boot = first_boot(&device, &dir);
    let mut shell = boot.userland().unwrap();
    must(&mut shell, &format!("[ -e {IMA} ] || mount -t securityfs none /sys/kernel/security"));
    let mut differ = Vec::new();
    let mut answers = [0, 0];
    for file in ["rules-taken", "rules-refused"] {
        let text = fs::read_to_string(tree().join("ima-policy/tests/data").join(file)).unwrap();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let rule = line.split('\t').next().unwrap();
            // To the kernel a blank line is no rule at all.
            if rule.is_empty() {
                continue;
            }
            let ours = Rule::parse(rule).and_then(|rule| kernel.takes(&rule)).is_ok();
            // A word that no kernel takes keeps the policy from coming into force: there would
            // be no second one.
            let write = format!(
                "exec 3>{IMA}/policy; printf '%s\\n' '{rule}' >&3; echo taken=$?; echo spoilt >&3; \
                 exec 3>&-"
            );
            let said = shell.run(&format!("( {write} ) 2>/dev/null")).unwrap().text;
            let its = said.contains("taken=0");
            answers[usize::from(its)] += 1;
            if ours != its {
                differ.push(format!("{rule}: ours {ours}, the kernel's {its}"));
            }
        }
    }
    assert_eq!(differ, [""; 0]);
    assert!(answers[0] > 30 && answers[1] > 20, "both answers were given: {answers:?}");
    assert_eq!(must(&mut shell, &format!("cat {IMA}/policy")), "", "none came into force");
}

#[test]
fn what_is_signed_runs_and_nothing_else() {
    let dir = scratch("integrity-appraise");
    let card = image(&dir, "appraise", false);
    let device = Device::new(&dir.join("device"), &card).unwrap();
    let _slot = slots::slot();
    let mut boot = first_boot(&device, &dir);
    boot.expect("it says so", "IMA policy in force: [0-9]+ rules, signatures are verified\n")
        .unwrap();
    let mut shell = boot.userland().unwrap();

    // A healthy boot: every entry is foretold, and there are few.
    let records = list(&mut shell);
    assert_eq!(faults(&records, &reference(&card)), []);
    let names = |records: &[Record]| -> Vec<String> {
        records.iter().map(|r| String::from_utf8_lossy(r.name().unwrap()).into_owned()).collect()
    };
    let healthy = names(&records);
    assert!(healthy.contains(&".ima".to_owned()), "the key is measured: {healthy:?}");
    assert!(healthy.iter().any(|name| name.ends_with("busybox")), "{healthy:?}");

    // Something of one's own, and a signed program with one byte more.
    for command in install(&program(call::EXIT, 7), "/root/own") {
        must(&mut shell, &command);
    }
    assert_eq!(run(&mut shell, "/root/own"), REFUSED);
    must(&mut shell, "cp /usr/sbin/msec-update /root/copy; chmod 755 /root/copy");
    assert_eq!(run(&mut shell, "/root/copy --version"), REFUSED);
    assert_eq!(run(&mut shell, "/usr/sbin/msec-update --version"), 0);
    must(&mut shell, "echo >> /usr/sbin/msec-update");
    assert_eq!(run(&mut shell, "/usr/sbin/msec-update --version"), REFUSED);
    // A script is a program; a shell that reads it runs none.
    must(&mut shell, "printf '#!/bin/sh\\nexit 7\\n' > /root/script; chmod 755 /root/script");
    assert_eq!(run(&mut shell, "/root/script"), REFUSED);
    assert_eq!(run(&mut shell, "sh /root/script"), 7);
    // EVM: what is signed keeps its owner and mode, and nothing else does.
    assert_ne!(run(&mut shell, "chmod 4755 /usr/sbin/initramfs-unseal"), 0);
    assert_eq!(run(&mut shell, "chmod 4755 /root/own"), 0);
    // No rule can be added.
    assert_ne!(run(&mut shell, &format!("echo 'dont_appraise' > {IMA}/policy")), 0);

    let told = faults(&list(&mut shell), &reference(&card));
    for (name, fault) in [
        ("/root/own", Fault::Unknown),
        ("/root/copy", Fault::Unknown),
        ("/root/script", Fault::Unknown),
        ("/usr/sbin/msec-update", Fault::Changed),
    ] {
        assert!(told.contains(&(name.to_owned(), fault)), "{name}: {told:?}");
    }
    assert_eq!(told.len(), 4, "{told:?}");
}

/// The premise of the test above: the same root under a policy that measures alone.
#[test]
fn what_is_measured_runs_and_is_told() {
    let dir = scratch("integrity-measure");
    let card = image(&dir, "measure", false);
    let device = Device::new(&dir.join("device"), &card).unwrap();
    let _slot = slots::slot();
    let mut boot = first_boot(&device, &dir);
    boot.expect("it says so", "IMA policy in force: [0-9]+ rules\n").unwrap();
    let mut shell = boot.userland().unwrap();
    assert_eq!(faults(&list(&mut shell), &reference(&card)), []);
    for command in install(&program(call::EXIT, 7), "/root/own") {
        must(&mut shell, &command);
    }
    assert_eq!(run(&mut shell, "/root/own"), 7);
    must(&mut shell, "echo >> /usr/sbin/msec-update");
    assert_eq!(run(&mut shell, "/usr/sbin/msec-update --version"), 0);
    assert_eq!(run(&mut shell, "chmod 4755 /usr/sbin/initramfs-unseal"), 0);
    let told = faults(&list(&mut shell), &reference(&card));
    let expected = [
        ("/root/own".to_owned(), Fault::Unknown),
        ("/usr/sbin/msec-update".to_owned(), Fault::Changed),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_module_is_loaded_if_it_is_signed_and_told_in_any_case() {
    let dir = scratch("integrity-modules");
    let card = image(&dir, "appraise", true);
    let device = Device::new(&dir.join("device"), &card).unwrap();
    let _slot = slots::slot();
    let mut boot = first_boot(&device, &dir);
    let mut shell = boot.userland().unwrap();
    let at = must(&mut shell, "find / -xdev -name dummy.ko");
    let module = at.trim();
    assert!(module.contains("/lib/modules/"), "{module}");
    assert_eq!(run(&mut shell, "modprobe dummy"), 0);
    assert!(must(&mut shell, "cat /proc/modules").starts_with("dummy "));
    let records = list(&mut shell);
    assert!(records.iter().any(|record| record.name() == Some(module.as_bytes())));
    assert_eq!(faults(&records, &reference(&card)), []);
    must(&mut shell, "rmmod dummy");

    // A copy has no attribute. As a file the kernel refuses it; busybox then hands it over as
    // memory, where its own signature is all that counts: a module of this kernel is loaded
    // either way, and no other one. The list has both.
    must(&mut shell, &format!("cp {module} /root/dummy.ko"));
    assert_eq!(run(&mut shell, "insmod /root/dummy.ko"), 0);
    must(&mut shell, "rmmod dummy");
    must(&mut shell, &format!("echo >> {module}"));
    assert_ne!(run(&mut shell, "modprobe dummy"), 0);
    assert_eq!(must(&mut shell, "cat /proc/modules"), "");
    let told = faults(&list(&mut shell), &reference(&card));
    let expected = [
        ("/root/dummy.ko".to_owned(), Fault::Unknown),
        (module.to_owned(), Fault::Changed),
        ("init_module".to_owned(), Fault::Changed),
    ];
    assert_eq!(told, expected);
}
