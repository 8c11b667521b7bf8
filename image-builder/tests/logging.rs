//! What `[logging]` gives a device, between two rsyslogd: a device with its configuration, and
//! a collector that speaks TLS.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use image_builder::image::debian::logging::{CA, SPOOL, configuration};
use image_builder::recipe::Recipe;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// For something that has to happen. rsyslog tries again every five seconds at first.
const DEADLINE: Duration = Duration::from_secs(60);

/// From here on numbers are of messages that may be lost: the device did not know yet.
const PROBE: u32 = 10_000;

/// The name in the collector's certificate.
const NAME: &str = "collector.test";

struct Place {
    dir: tempfile::TempDir,
    port: u16,
}

/// A running rsyslogd, which is ended with the test.
struct Rsyslog(Child);

impl Rsyslog {
    /// As systemd ends it: it writes what waits to the disk.
    fn end(mut self) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let began = Instant::now();
        while self.0.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < DEADLINE, "it does not end");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Place {
    fn new() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let place = Self { dir: tempfile::tempdir().unwrap(), port };
        for ca in ["ca", "other-ca"] {
            place.openssl(&[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                &format!("/CN={ca}"),
                "-days",
                "2",
                "-keyout",
                &format!("{ca}.key"),
                "-out",
                &format!("{ca}.pem"),
            ]);
        }
        // The right one, one of another name, and one by another CA.
        for (name, ca, host) in
            [("right", "ca", NAME), ("name", "ca", "other.test"), ("ca2", "other-ca", NAME)]
        {
            place.openssl(&[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-subj",
                &format!("/CN={host}"),
                "-addext",
                &format!("subjectAltName=DNS:{host}"),
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-days",
                "2",
                "-CA",
                &format!("{ca}.pem"),
                "-CAkey",
                &format!("{ca}.key"),
                "-keyout",
                &format!("{name}.key"),
                "-out",
                &format!("{name}.pem"),
            ]);
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn shown(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn openssl(&self, args: &[&str]) {
        let ran = Command::new("openssl").args(args).current_dir(self.dir.path()).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }

    /// `None` where there is no rsyslogd and none is demanded.
    fn start(&self, name: &str, configuration: &str) -> Option<Rsyslog> {
        let file = self.path(&format!("{name}.conf"));
        fs::write(&file, configuration).unwrap();
        let log = fs::File::create(self.path(&format!("{name}.err"))).unwrap();
        let started = Command::new("rsyslogd")
            .args(["-n", "-f"])
            .arg(&file)
            .arg("-i")
            .arg(self.path(&format!("{name}.pid")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        match started {
            Ok(child) => Some(Rsyslog(child)),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                assert!(std::env::var_os("MSEC_REQUIRE_TOOLS").is_none(), "rsyslogd");
                None
            }
            Err(error) => panic!("rsyslogd: {error}"),
        }
    }

    /// A collector with this certificate, which writes what it gets as the device sent it.
    fn collector(&self, certificate: &str) -> Option<Rsyslog> {
        let [dir, ca, out] = ["", "ca.pem", "collected"].map(|name| self.shown(name));
        let [certificate, key] =
            ["pem", "key"].map(|kind| self.shown(&format!("{certificate}.{kind}")));
        let port = self.port;
        let input = format!(
            "global(DefaultNetstreamDriver=\"ossl\" DefaultNetstreamDriverCAFile=\"{ca}\" \
             DefaultNetstreamDriverCertFile=\"{certificate}\" \
             DefaultNetstreamDriverKeyFile=\"{key}\")\n\
             module(load=\"imtcp\" StreamDriver.Name=\"ossl\" StreamDriver.Mode=\"1\" \
             StreamDriver.AuthMode=\"anon\")\n\
             input(type=\"imtcp\" port=\"{port}\" address=\"127.0.0.1\")\n"
        );
        let text = format!(
            "global(workDirectory=\"{dir}\" processInternalMessages=\"on\")\n{input}\
             template(name=\"raw\" type=\"string\" string=\"%rawmsg%\\n\")\n\
             action(type=\"omfile\" file=\"{out}\" template=\"raw\")\n",
        );
        self.start("collector", &text)
    }

    /// A device: its configuration as it is made, but for the paths.
    fn device(&self) -> Rsyslog {
        let recipe = format!(
            "name = \"d\"\nboard = \"rpi3\"\n[kernel]\ncommand_line = \"quiet\"\n[root]\nsystem = \
             \"debian\"\n[logging]\nserver = \"127.0.0.1:{}\"\nca = \"ca.pem\"\nname = \"{NAME}\"
",
            self.port
        );
        fs::write(self.path("d.toml"), recipe).unwrap();
        let recipe = Recipe::load(&self.path("d.toml")).unwrap();
        let logging = recipe.logging.unwrap();
        fs::write(self.path("image-ca.pem"), &logging.ca_text).unwrap();
        let made = configuration(&logging);
        assert!(made.contains(CA) && made.contains(SPOOL));
        fs::create_dir_all(self.path("spool")).unwrap();
        let made = made.replace(CA, &self.shown("image-ca.pem"));
        let made = made.replace(SPOOL, &self.shown("spool"));
        let text = format!(
            "global(workDirectory=\"{}\" processInternalMessages=\"on\")\n\
             module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
             input(type=\"imuxsock\" Socket=\"{}\")\n{made}\
             action(type=\"omfile\" file=\"{}\")\n",
            self.shown("spool"),
            self.shown("log"),
            self.shown("local"),
        );
        fs::remove_file(self.path("log")).ok();
        let started = self.start("device", &text).unwrap();
        wait(|| self.path("log").exists(), || "no socket".to_owned());
        started
    }

    /// Logs these numbers on the device; they are in its own log when it returns.
    fn log(&self, numbers: std::ops::Range<u32>) {
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(self.path("log")).unwrap();
        for number in numbers.clone() {
            let json = format!("{{\"ima\":{{\"event\":\"test\",\"number\":{number}}}}}");
            let message = format!("<84>ima-policy[7]: @cee: {json}");
            socket.send(message.as_bytes()).unwrap();
        }
        let last = format!("\"number\":{}}}", numbers.end - 1);
        let is_there =
            || fs::read_to_string(self.path("local")).unwrap_or_default().contains(&last);
        wait(is_there, || "not in the device's log".to_owned());
    }

    fn local(&self) -> String {
        fs::read_to_string(self.path("local")).unwrap_or_default()
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
        fs::read_dir(self.path("spool")).unwrap().count() > 0
    }

    /// The numbers that the collector has, in order.
    fn collected(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.path("collected")).unwrap_or_default();
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
                .map(|name| fs::read_to_string(self.path(name)).unwrap_or_default());
            format!("{} collected, {number} missing: {said:?}", self.collected().len())
        });
    }
}

fn wait(mut is_there: impl FnMut() -> bool, missing: impl Fn() -> String) {
    let began = Instant::now();
    while !is_there() {
        assert!(began.elapsed() < DEADLINE, "{}", missing());
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_is_logged_while_the_collector_or_the_device_is_away_arrives_in_order() {
    let place = Place::new();
    let Some(collector) = place.collector("right") else { return };
    let device = place.device();
    place.log(0..50);
    place.wait_for(49);
    // The collector goes away, which the device learns by sending. From there on some wait in
    // memory, the rest on the disk.
    collector.end();
    place.log_until_suspended(1);
    place.log(100..700);
    wait(|| place.has_spooled(), || "nothing on the disk".to_owned());
    let collector = place.collector("right").unwrap();
    place.wait_for(699);
    // Both go: the device with messages that nobody has taken.
    collector.end();
    place.log_until_suspended(2);
    place.log(700..1000);
    device.end();
    assert!(place.has_spooled());
    let device = place.device();
    place.log(1000..1050);
    let _collector = place.collector("right").unwrap();
    place.wait_for(1049);
    let collected: Vec<u32> = place.collected().into_iter().filter(|n| *n < PROBE).collect();
    let logged: Vec<u32> = (0..50).chain(100..1050).collect();
    assert_eq!(collected, logged);
    device.end();
}

#[test]
fn a_collector_that_is_another_gets_nothing() {
    for certificate in ["name", "ca2", "right"] {
        let place = Place::new();
        let Some(collector) = place.collector(certificate) else { return };
        let device = place.device();
        place.log(0..10);
        if certificate == "right" {
            // Premise: nothing else keeps them from the others.
            place.wait_for(9);
        } else {
            // It tries again, and is told the same.
            let refused = || place.local().matches("TLS session terminated").count();
            wait(|| refused() > 2, || format!("{certificate}: {}", place.local()));
            let got = fs::read_to_string(place.path("collected")).unwrap_or_default();
            assert!(!got.contains("@cee"), "{certificate}: {got}");
        }
        device.end();
        collector.end();
    }
}
