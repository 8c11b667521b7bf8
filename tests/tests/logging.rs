//! What `[logging]` gives a device, between two rsyslogd: a device with its configuration, and
//! a collector that speaks TLS.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
};

use image_builder::{
    demo::collector::{NAME, Place, Rsyslog},
    image::logging::{CA, OF_BUSYBOX, ROTATE, SPOOL, configuration},
    recipe::Recipe,
};
use msec_tests::patience::wait;

/// From here on numbers are of messages that may be lost: the device did not know yet.
const PROBE: u32 = 10_000;

/// A device, and what it speaks to.
struct Bench(Place, #[expect(dead_code, reason = "goes with it")] tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self(Place::new(dir.path()).unwrap(), dir)
    }

    /// A device: its configuration as it is made, but for the paths.
    fn device(&self) -> Rsyslog {
        let recipe = format!(
            "name = \"d\"\nboard = \"rpi3\"\n[kernel]\ncommand_line = \"quiet\"\n[root]\nsystem = \
             \"debian\"\n[logging]\nserver = \"127.0.0.1:{}\"\nca = \"ca.pem\"\nname = \"{NAME}\"
",
            self.0.port
        );
        fs::write(self.0.path("d.toml"), recipe).unwrap();
        let recipe = Recipe::load(&self.0.path("d.toml")).unwrap();
        let logging = recipe.logging.unwrap();
        fs::write(self.0.path("image-ca.pem"), &logging.ca_text).unwrap();
        let made = configuration(&logging);
        assert!(made.contains(CA) && made.contains(SPOOL));
        fs::create_dir_all(self.0.path("spool")).unwrap();
        let made = made.replace(CA, &self.0.shown("image-ca.pem"));
        let made = made.replace(SPOOL, &self.0.shown("spool"));
        let text = format!(
            "global(workDirectory=\"{}\" processInternalMessages=\"on\")\n\
             module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
             input(type=\"imuxsock\" Socket=\"{}\")\n{made}\
             action(type=\"omfile\" file=\"{}\")\n",
            self.0.shown("spool"),
            self.0.shown("log"),
            self.0.shown("local"),
        );
        fs::remove_file(self.0.path("log")).ok();
        let started = self.0.start("device", &text).unwrap();
        wait(|| self.0.path("log").exists(), || "no socket".to_owned());
        started
    }

    /// Logs these numbers on the device; they are in its own log when it returns.
    fn log(&self, numbers: std::ops::Range<u32>) {
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(self.0.path("log")).unwrap();
        for number in numbers.clone() {
            let json = format!("{{\"ima\":{{\"event\":\"test\",\"number\":{number}}}}}");
            let message = format!("<84>ima-policy[7]: @cee: {json}");
            socket.send(message.as_bytes()).unwrap();
        }
        let last = format!("\"number\":{}}}", numbers.end - 1);
        let is_there =
            || fs::read_to_string(self.0.path("local")).unwrap_or_default().contains(&last);
        wait(is_there, || "not in the device's log".to_owned());
    }

    fn local(&self) -> String {
        fs::read_to_string(self.0.path("local")).unwrap_or_default()
    }

    /// How often the device has found that it cannot reach the collector.
    fn suspensions(&self) -> usize {
        self.local().matches("'msec-remote' suspended").count()
    }

    /// Logs one by one until the device has seen that nobody is there any more.
    fn log_until_suspended(&self, round: u32) {
        let before = self.suspensions();
        let mut number = PROBE * round;
        wait(
            || {
                number += 1;
                self.log(number..number + 1);
                self.suspensions() > before
            },
            || self.local(),
        );
    }

    fn has_spooled(&self) -> bool {
        fs::read_dir(self.0.path("spool")).unwrap().count() > 0
    }

    /// The numbers that the collector has, in order.
    fn collected(&self) -> Vec<u32> {
        let text = self.0.collected();
        let numbers = text.lines().filter_map(|line| {
            let (head, json) = line.split_once("@cee: ")?;
            // RFC 5424: what the device's program sent as one field more is still that.
            assert!(head.starts_with("<84>1 20") && head.contains(" ima-policy 7 - - "), "{line}");
            let json: serde_json::Value = serde_json::from_str(json).unwrap();
            u32::try_from(json["ima"]["number"].as_u64()?).ok()
        });
        numbers.collect()
    }

    fn wait_for(&self, number: u32) {
        let is_there = || self.collected().contains(&number);
        wait(is_there, || {
            let said = ["device.err", "collector.err"]
                .map(|name| fs::read_to_string(self.0.path(name)).unwrap_or_default());
            format!("{} collected, {number} missing: {said:?}", self.collected().len())
        });
    }
}

#[test]
fn what_is_logged_while_the_collector_or_the_device_is_away_arrives_in_order() {
    let place = Bench::new();
    let collector = place.0.collector("right").unwrap();
    let device = place.device();
    place.log(0..50);
    place.wait_for(49);
    // The collector goes away, which the device learns by sending. From there on some wait in
    // memory, the rest on the disk.
    collector.end().unwrap();
    place.log_until_suspended(1);
    place.log(100..700);
    wait(|| place.has_spooled(), || "nothing on the disk".to_owned());
    let collector = place.0.collector("right").unwrap();
    place.wait_for(699);
    // Both go: the device with messages that nobody has taken.
    collector.end().unwrap();
    place.log_until_suspended(2);
    place.log(700..1000);
    device.end().unwrap();
    assert!(place.has_spooled());
    let device = place.device();
    place.log(1000..1050);
    let _collector = place.0.collector("right").unwrap();
    place.wait_for(1049);
    let collected: Vec<u32> = place.collected().into_iter().filter(|n| *n < PROBE).collect();
    let logged: Vec<u32> = (0..50).chain(100..1050).collect();
    assert_eq!(collected, logged);
    device.end().unwrap();
}

#[test]
fn a_collector_that_is_another_gets_nothing() {
    for certificate in ["name", "ca2", "right"] {
        let place = Bench::new();
        let collector = place.0.collector(certificate).unwrap();
        let device = place.device();
        place.log(0..10);
        if certificate == "right" {
            // Premise: nothing else keeps them from the others.
            place.wait_for(9);
        } else {
            // It tries again, and is told the same.
            let refused = || place.local().matches("TLS session terminated").count();
            wait(|| refused() > 2, || format!("{certificate}: {}", place.local()));
            let got = place.0.collected();
            assert!(!got.contains("@cee"), "{certificate}: {got}");
        }
        device.end().unwrap();
        collector.end().unwrap();
    }
}

/// The log of a busybox userland stays as small as its configuration says. Premise: without
/// that line of it, the same messages make it larger.
#[test]
fn the_log_of_a_busybox_is_bounded() {
    const LIMIT: u64 = 256 << 10;
    /// What may be written before the size is looked at again.
    const SLACK: u64 = 64 << 10;
    assert!(largest_log(OF_BUSYBOX.1) < LIMIT + SLACK);
    let rotates = |line: &&str| line.contains("rotation.");
    let open: Vec<&str> = OF_BUSYBOX.1.lines().filter(|line| !rotates(line)).collect();
    assert!(largest_log(&open.join("\n")) > 2 * (LIMIT + SLACK), "premise");
}

/// Size of the largest log that some thousand messages make with this configuration.
fn largest_log(configuration: &str) -> u64 {
    let place = Bench::new();
    fs::create_dir_all(place.0.path("spool")).unwrap();
    let [script, local, spool, none, socket] =
        ["rotate-log", "local", "spool", "none", "log"].map(|name| place.0.shown(name));
    fs::write(&script, ROTATE.1.replace("/var/log/syslog", &local)).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    // The kernel's log is another machine's here, and so is /dev/log.
    let mut text = configuration
        .replace("module(load=\"imklog\")\n", "")
        .replace("(load=\"imuxsock\")", "(load=\"imuxsock\" SysSock.Use=\"off\")");
    for (from, to) in [
        ("/etc/rsyslog.d", &none),
        (SPOOL, &spool),
        ("/usr/bin/rotate-log", &script),
        ("/var/log/syslog", &local),
    ] {
        text = text.replace(from, to);
    }
    text += &format!("\ninput(type=\"imuxsock\" Socket=\"{socket}\")\n");
    let device = place.0.start("busybox", &text).unwrap();
    wait(|| place.0.path("log").exists(), || "no socket".to_owned());
    let size = |name: &str| fs::metadata(place.0.path(name)).map_or(0, |meta| meta.len());
    let mut largest = 0;
    for round in 0..20 {
        place.log(round * 500..(round + 1) * 500);
        largest = largest.max(size("local")).max(size("local.1"));
    }
    device.end().unwrap();
    largest
}
