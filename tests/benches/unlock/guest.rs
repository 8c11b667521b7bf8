//! The board that everything is measured on.

use std::{path::Path, time::Duration};

use emulated_board::wire::Exchange;
use image_builder::{
    component::Component,
    deb,
    demo::journey::provision,
    emu::{
        boot::Boot,
        card::Card,
        device::{Device, RecoveryKey},
    },
    image::tamper::Tamper,
};
use msec_tests::{
    built::{built, tree},
    host_tpm::{HostTpm, selection},
    peers::{Peers, stopwatch},
};

use crate::contender::{Contender, DEVICE, NAME, RECOVERY, SECRET, Step, filled};

/// What the guest says when its shell is there.
const READY: &str = "bench: the shell starts";

/// A guest that runs, with everything to be measured in it.
#[derive(Debug)]
pub(crate) struct Guest {
    boot: Boot,
    recovery_key: RecoveryKey,
    /// The size of initramfs-unseal in bytes.
    pub(crate) unseal: u64,
}

/// One opening.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// From the exec to the end of the program; of both, where there are two.
    pub(crate) whole: Duration,
    /// From the exec until the name stands in /dev/mapper.
    pub(crate) there: Duration,
    /// Largest resident set of any process, in KiB.
    pub(crate) rss: u64,
    pub(crate) processes: u32,
    pub(crate) execs: u32,
    /// TPM commands on the wire.
    pub(crate) commands: Vec<Exchange>,
    /// What the TPM kept, where that can be known.
    pub(crate) secret: Option<Vec<u8>>,
    /// initramfs-unseal's own account, for people.
    pub(crate) report: Option<serde_json::Value>,
}

/// One opening by hand.
#[derive(Debug, Clone)]
pub(crate) struct Recovery {
    /// From the key's last letter until the volume is open.
    pub(crate) ours: Duration,
    pub(crate) rss: u64,
    /// `cryptsetup open` with the same key in a file.
    pub(crate) cryptsetup: Duration,
}

impl Guest {
    /// Makes a device, provisions it in a first boot, and boots it a second time.
    pub(crate) fn boot(dir: &Path, peers: &Peers) -> Self {
        let program = built().component(Component::Unseal).join(deb::NAME);
        let image = image(dir, peers, &program);
        let device = Device::new(&dir.join("device"), &image).expect("a device");
        let mut boot = device.boot("provision", &dir.join("provision")).expect("a board");
        boot.expect("the guest's shell", READY).expect("the first boot");
        boot.userland_again().expect("the guest's shell");
        boot.board.console.send("initramfs-unseal unlock\r").expect("the console");
        let recovery_key = provision(&mut boot, |_| ()).expect("provisioning");
        boot.expect("the step ends", "/dev/mapper/root is open\n").expect("provisioning");
        let shell = boot.userland_again().expect("the guest's shell");
        shell.power_off().expect("the first boot's end");
        drop(boot);

        let tpm = HostTpm::power_on_copy(&device.tpm);
        tpm.measure(image.manifest());
        let index = serde_json::to_value(built().recipe.tpm.nv_index).expect("a handle");
        let index = index.as_str().expect("a handle");
        let sealed = tpm.unseal(index, &selection(image.manifest())).expect("the secret");
        // Version, 32 bytes of secret, 32 of fingerprint.
        let secret = &sealed[1..33];

        peers.put_on(&device.card);
        let mut boot = device.boot("bench", &dir.join("bench")).expect("a board");
        boot.expect("the guest's shell", READY).expect("the second boot");
        let unseal = program.metadata().expect("the program").len();
        let mut guest = Self { boot, recovery_key, unseal };
        let escaped: String = secret.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        guest.must(&format!("printf '{escaped}' >{SECRET}"));
        let key = guest.recovery_key.expose().to_owned();
        guest.must(&format!("printf '{key}' >{RECOVERY}"));
        guest
    }

    /// The wire's record of this boot.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.boot.board.wire.exchanges()
    }

    /// Runs a command line; its output.
    fn run(&mut self, command: &str) -> (i32, String) {
        let mut shell = self.boot.userland_again().expect("the guest's shell");
        let output = shell.run(command).expect("the guest's shell");
        (output.code, output.text)
    }

    /// A command line that has to succeed.
    fn must(&mut self, command: &str) -> String {
        let (code, text) = self.run(command);
        assert!(code == 0, "{command}: exit code {code}: {text}");
        text
    }

    /// Gives a program its own key slot. The TPM is as at power-on before it.
    pub(crate) fn enrol(&mut self, contender: &Contender) -> Result<(), String> {
        self.reset_tpm();
        for command in contender.enrol {
            let command = filled(command);
            let (code, text) = self.run(&format!("in-peers '{}'", command.replace('\'', "'\\''")));
            if code != 0 {
                return Err(format!("{command}: exit code {code}: {}", text.trim()));
            }
        }
        Ok(())
    }

    /// Opens the volume once, and closes it. The TPM is as at power-on before it.
    pub(crate) fn open(&mut self, contender: &Contender, traced: bool) -> Run {
        self.reset_tpm();
        let before = self.exchanges().len();
        let mut all = Run {
            whole: Duration::ZERO,
            there: Duration::ZERO,
            rss: 0,
            processes: 0,
            execs: 0,
            commands: Vec::new(),
            secret: None,
            report: None,
        };
        for step in contender.open {
            let said = self.must(&stopwatch_line(step, traced));
            let got = Watched::parse(&said);
            all.there = all.whole + got.there;
            all.whole += got.whole;
            all.rss = all.rss.max(got.rss);
            all.processes += got.processes;
            all.execs += got.execs;
        }
        all.commands = self.exchanges().split_off(before);
        all.secret = contender.secret.map(|file| self.read(file));
        if contender.open.iter().any(|step| step.own_root) {
            let report = self.must("cat /run/initramfs-unseal/report.json");
            all.report = serde_json::from_str(&report).ok();
        }
        self.close();
        all
    }

    /// Opens the volume by hand, after a measurement that the TPM refuses.
    pub(crate) fn recover(&mut self) -> Recovery {
        self.reset_tpm();
        let other = "8".repeat(64);
        self.must(&format!("in-peers 'tpm2_pcrextend 8:sha256={other}'"));
        let line = "stopwatch -o /dev/null /bin/initramfs-unseal unlock\r";
        self.boot.board.console.send(line).expect("the console");
        self.boot.type_recovery_key(&self.recovery_key).expect("the prompt");
        let typed = self.boot.board.uptime();
        let said = "unlocked by the recovery key";
        self.boot.expect("the key opens", said).expect("the recovery path");
        let said = self.boot.expect("its end", "(stopwatch: [^\n]*)\n").expect("its end").text;
        let lines = self.boot.board.console.lines();
        let opened = lines.iter().rev().find(|line| line.text.contains("unlocked by the recovery"));
        let ours = opened.map_or(Duration::ZERO, |line| line.at.saturating_sub(typed));
        self.close();
        let by_file = Step {
            command: "/usr/sbin/cryptsetup open --key-file /run/recovery --key-slot 0 {device} {name}",
            output: "/dev/null",
            own_root: false,
        };
        let cryptsetup = Watched::parse(&self.must(&stopwatch_line(&by_file, false))).whole;
        self.close();
        Recovery { ours, rss: Watched::parse(&said).rss, cryptsetup }
    }

    pub(crate) fn power_off(&mut self) {
        let shell = self.boot.userland_again().expect("the guest's shell");
        shell.power_off().expect("the end");
    }

    fn close(&mut self) {
        self.must(&format!(
            "in-peers 'cryptsetup close {NAME}' && rm -rf /run/initramfs-unseal && \
             [ ! -e /dev/mapper/{NAME} ]"
        ));
    }

    fn reset_tpm(&mut self) {
        self.boot.board.reset_tpm().expect("the TPM's reset");
    }

    /// A file's bytes, by way of the console.
    fn read(&mut self, path: &str) -> Vec<u8> {
        let text = self.must(&format!("od -An -v -tx1 {path}"));
        let byte = |word| u8::from_str_radix(word, 16).expect("hex digits");
        text.split_whitespace().map(byte).collect()
    }
}

/// The image: the build's own artifacts, with a shell for `/init` and our program as a
/// command.
fn image(dir: &Path, peers: &Peers, program: &Path) -> Card {
    let mut card = built().small_image_with(dir, |recipe| {
        recipe["disk"].as_table_mut().expect("[disk]").insert("size_mib".to_owned(), 256.into());
    });
    let files = [
        ("bin/busybox", peers.busybox()),
        ("bin/initramfs-unseal", program.to_owned()),
        ("bin/stopwatch", stopwatch(dir)),
        ("bin/in-peers", tree().join("tests/peers/in-peers")),
        ("init", tree().join("tests/peers/init")),
    ];
    for (number, (path, file)) in files.into_iter().enumerate() {
        let content = std::fs::read(&file).expect("a file of the guest's");
        let file = Tamper::Initramfs { path: path.to_owned(), content };
        let variant = built().variant(&card, &file, dir, &format!("with-{number}"));
        card = Card::open(&variant).expect("a bootable image");
    }
    card
}

fn stopwatch_line(step: &Step, traced: bool) -> String {
    let root = if step.own_root { "" } else { " -c /peers" };
    let traced = if traced { " -t" } else { "" };
    let command = filled(step.command);
    format!("stopwatch{root}{traced} -w {NAME} -o {} {command} </dev/null", step.output)
}

/// What the stopwatch says.
struct Watched {
    whole: Duration,
    there: Duration,
    rss: u64,
    processes: u32,
    execs: u32,
}

impl Watched {
    fn parse(said: &str) -> Self {
        let line = said.lines().rev().find_map(|line| line.split("stopwatch: ").nth(1));
        let line = line.unwrap_or_else(|| panic!("no stopwatch in {said}"));
        let field = |name: &str| -> u64 {
            let value = line.split_whitespace().find_map(|word| {
                word.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value)
            });
            value.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line}"))
        };
        let small = |name: &str| u32::try_from(field(name)).expect("a small number");
        assert_eq!(field("exit"), 0, "{said} ({DEVICE})");
        Self {
            whole: Duration::from_micros(field("us")),
            there: Duration::from_micros(field("there")),
            rss: field("rss"),
            processes: small("processes"),
            execs: small("execs"),
        }
    }
}
