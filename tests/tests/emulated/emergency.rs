//! Ways to a shell that other boot chains have or had: words of the command line,
//! characters that signal, BREAK, a flooded prompt, another first program.

use std::time::Duration;

use emulated_board::Ended;
use image_builder::{
    demo::journey::refusal,
    emu::{boot::PATIENCE, card::Card, device::Device},
    image::tamper::Tamper,
};
use msec_tests::{
    built::{built, scratch},
    program::{call, program},
    shared::shared,
    slots,
};

use crate::check::{before_the_userland, no_shell, says};

/// What asks for a shell, a debugger or SysRq: the kernel, Debian's initramfs-tools,
/// dracut, systemd, System V's init.
const WORDS: &str = "init=/bin/sh break=premount rd.break rd.shell=1 systemd.debug_shell=1 \
                     systemd.unit=emergency.target emergency single sysrq_always_enabled=1 \
                     kgdboc=ttyAMA0 kgdbwait";

/// Interrupt, quit, suspend and end-of-file: Ctrl-C, Ctrl-\, Ctrl-Z, Ctrl-D.
const SIGNALS: &str = "\x03\x1c\x1a\x04";

/// SysRq's keys that would show: help, memory, tasks, locks; then kill everything,
/// crash, power off, reboot (Linux, Documentation/admin-guide/sysrq.rst).
const SYSRQ: &str = "hmtdeicob";

/// Never ends its line.
const FLOOD: usize = 1 << 20;

const PROMPT: &str = "enter the recovery key for /dev/mmcblk0p2: $";

#[test]
fn neither_words_nor_keys_nor_a_flood_give_a_shell_before_the_root_is_open() {
    let dir = scratch("emergency");
    let card = built().card(&Tamper::CommandLine(WORDS.to_owned()), &dir, "words");
    let device = shared().copy(&dir.join("device"), &card);
    let _slot = slots::slot();
    let mut boot = device.boot("emergency", &dir.join("logs")).unwrap();
    refusal(&mut boot, "command line").unwrap();
    boot.expect("the prompt", PROMPT).unwrap();
    boot.board.console.send(SIGNALS).unwrap();
    for key in SYSRQ.chars() {
        boot.board.send_break().unwrap();
        boot.board.console.send(&key.to_string()).unwrap();
    }
    boot.board.console.send(&"c".repeat(FLOOD)).unwrap();
    boot.board.console.send("\r").unwrap();
    // All of it is one answer, and a wrong one.
    boot.expect("it is counted", r"wrong recovery key \(try 1 of 3\)").unwrap();
    boot.type_recovery_key(&shared().recovery_key).unwrap();
    boot.expect("the key opens", "unlocked by the recovery key\n").unwrap();

    let mut shell = boot.userland().unwrap();
    let mut text = |command: &str| shell.run(command).unwrap().text;
    // The premise: all of that did arrive.
    let line = text("cat /proc/cmdline");
    assert!(line.trim().ends_with(WORDS), "{line}");
    let breaks = text("sed -n 's/.* brk:\\([0-9]*\\).*/\\1/p' /proc/tty/driver/ttyAMA");
    // On a busy machine the emulated UART takes several in a row for one.
    assert!(breaks.trim().parse::<usize>().unwrap() > 0, "BREAKs: {breaks}");
    // The first program of the root is its own init, and got no word of all that: busybox
    // writes `init` over its arguments and keeps their length.
    assert_eq!(text("tr '\\0' ' ' < /proc/1/cmdline"), format!("{:11}", "init"));
    assert_eq!(text("readlink /proc/1/exe"), "/usr/bin/busybox\n");
    // No SysRq, and no keyboard whose Ctrl-Alt-Del the kernel would take itself.
    for gone in ["/proc/sysrq-trigger", "/proc/sys/kernel/sysrq", "/dev/tty0", "/proc/bus/input"] {
        assert_ne!(shell.run(&format!("ls {gone}")).unwrap().code, 0, "{gone} is there");
    }
    // The premise: where signals are not off, one of these keys ends what runs.
    // What says that it runs is in the foreground when it does.
    shell.boot().board.console.send("sh -c 'echo be\"\"gun; sleep 100000'\r").unwrap();
    shell.boot().expect("it runs", "begun\n").unwrap();
    shell.boot().board.console.send("\x03").unwrap();
    // The signal also throws away what was typed until it came: wait for the prompt.
    shell.boot().expect("it is ended", "/ # ").unwrap();
    shell.run("stty -a").unwrap();
    shell.power_off().unwrap();
    let lines = boot.lines();
    let lines = before_the_userland(&lines);
    no_shell(lines);
    assert!(!says(lines, "sysrq: "), "SysRq answered");
    assert!(!says(lines, "cccccccc"), "what is typed is not shown");
}

/// The end of a boot whose first program is not ours, and its last words.
fn panics(name: &str, card: &Card, last_words: &str) {
    let dir = scratch(name);
    let device: Device = shared().copy(&dir.join("device"), card);
    let _slot = slots::slot();
    let mut boot = device.boot(name, &dir.join("logs")).unwrap();
    let end = format!("Kernel panic - not syncing: {last_words}");
    boot.board.console.wait(&end, PATIENCE).unwrap();
    // At the end of its rope the kernel takes keys no more than before.
    let _ = boot.board.console.send("\x03\r\r");
    assert_eq!(boot.board.wait_off(Duration::from_secs(60)).unwrap(), Ended::Reset);
    let lines = boot.lines();
    assert!(!says(&lines, "initramfs-unseal: "), "our program did not run");
    no_shell(&lines);
}

/// Our initramfs has one program. Where the kernel is told to start another one, there
/// is none, and the root is no file system that it could mount by itself.
#[test]
fn another_first_program_ends_in_a_reset() {
    let dir = scratch("rdinit-images");
    let words = "rdinit=/bin/sh init=/bin/sh root=/dev/mmcblk0p2 rootwait panic=1";
    let words = Tamper::CommandLine(words.to_owned());
    let card = built().card(&words, &dir, "rdinit");
    panics("rdinit", &card, "VFS: Unable to mount root fs");

    // The premise: the kernel does obey rdinit=. With a /bin/sh that exits with 42 it is
    // that program whose end it laments; PCR 1 and PCR 9 differ.
    let shell = Tamper::Initramfs { path: "bin/sh".to_owned(), content: program(call::EXIT, 42) };
    let card = built().variant(&card, &shell, &dir, "rdinit-shell");
    let card = Card::open(&card).unwrap();
    panics("rdinit-shell", &card, "Attempted to kill init! exitcode=0x00002a00");
}
