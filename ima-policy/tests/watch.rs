//! `ima-policy watch`: a list that grows, and the log that is told.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;
mod made;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::{List, digest, text};
use made::Made;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// For something that has to happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a report may take.
const LATEST: Duration = Duration::from_secs(1);

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Running {
    /// Asks it to end; its exit code and standard error.
    fn end(mut self) -> (i32, String) {
        let pid = Pid::from_raw(self.0.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        self.ended()
    }

    fn ended(&mut self) -> (i32, String) {
        let code = self.0.wait().unwrap().code().unwrap();
        let mut said = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_string(&mut said).unwrap();
        }
        (code, said)
    }
}

/// Reports on standard output as they come.
struct Reports(Receiver<Value>);

impl Reports {
    fn of(out: ChildStdout) -> Self {
        let (sender, receiver) = channel();
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                sender.send(serde_json::from_str(&line).unwrap()).ok();
            }
        });
        Self(receiver)
    }

    fn next(&self) -> Value {
        self.0.recv_timeout(DEADLINE).unwrap()["ima"].clone()
    }

    /// The rest, once the process has ended.
    fn rest(&self) -> Vec<Value> {
        self.0.iter().map(|told| told["ima"].clone()).collect()
    }
}

/// A device: its list, modules and PCRs are files.
struct Device {
    made: Made,
    list: List,
}

impl Device {
    fn new() -> Self {
        let device = Self { made: Made::new(), list: List::new() };
        fs::write(device.path("list"), "").unwrap();
        fs::write(device.path("modules"), "").unwrap();
        device
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(self.made.path(name))
    }

    /// Adds to the list what the closure adds.
    fn grow(&mut self, add: impl FnOnce(&mut List)) {
        let before = self.list.binary.len();
        add(&mut self.list);
        self.append(&self.list.binary[before..]);
    }

    fn append(&self, bytes: &[u8]) {
        let mut file = File::options().append(true).open(self.path("list")).unwrap();
        file.write_all(bytes).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ima-policy"));
        command.arg("watch").arg("--list").arg(self.path("list"));
        command.arg("--modules").arg(self.path("modules")).arg("--pcrs").arg(self.path("pcrs"));
        command.args(["--reference", &self.made.path("reference")]);
        command.args(["--keyring", &self.made.path("key.pub")]);
        command.args(args).stderr(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    fn start(&self, args: &[&str]) -> (Running, Reports) {
        let mut child = self.command(args).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        (Running(child), Reports::of(out))
    }

    fn pcrs(&self, values: impl Fn(u8) -> [u8; 32]) {
        fs::create_dir_all(self.path("pcrs")).unwrap();
        for index in 0..24 {
            let text = format!("{}\n", hex::encode_upper(values(index)));
            fs::write(self.path("pcrs").join(index.to_string()), text).unwrap();
        }
    }
}

#[test]
fn what_is_added_is_told_within_a_second() {
    let mut device = Device::new();
    let signature = device.made.signature("a");
    device.grow(|list| list.file("/a", b"a", &signature));
    let (running, reports) = device.start(&["--format", "json"]);
    let start = reports.next();
    assert_eq!((&start["event"], &start["severity"]), (&"start".into(), &"info".into()));
    let mut longest = Duration::ZERO;
    let steps: [(&str, &[u8], &str, &str); 4] = [
        ("/b", b"another", "changed", "error"),
        ("/new file", b"new", "unknown", "warning"),
        ("/usr/lib/modules/6.12/kernel/evil.ko", b"evil", "module", "alert"),
        ("/b", b"b", "unsigned", "notice"),
    ];
    for (number, (name, content, event, severity)) in steps.into_iter().enumerate() {
        // Everything is quiet, at another moment between two looks each time.
        let quiet = Duration::from_millis(300 + 70 * number as u64);
        assert!(reports.0.recv_timeout(quiet).is_err(), "nothing was added");
        device.grow(|list| list.file(name, content, b""));
        let began = Instant::now();
        let told = reports.next();
        longest = longest.max(began.elapsed());
        assert_eq!((&told["event"], &told["severity"]), (&event.into(), &severity.into()));
        assert_eq!((&told["name"], &told["entry"]), (&name.into(), &(number + 2).into()));
        assert_eq!(told["digest"], digest(content).0);
    }
    assert!(longest < LATEST, "{longest:?}");
    eprintln!("longest: {longest:?}");
    // The kernel is asked between two writes of one record.
    let before = device.list.binary.len();
    device.list.file("/cut", b"cut", b"");
    let (first, rest) = device.list.binary[before..].split_at(50);
    device.append(first);
    assert!(reports.0.recv_timeout(LATEST).is_err(), "half a record is none, and no error");
    device.append(rest);
    assert_eq!(reports.next()["name"], "/cut");
    let (code, said) = running.end();
    assert_eq!((code, said.as_str()), (0, ""));
    let rest = reports.rest();
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert_eq!(rest[0]["event"], "stop");
    assert!(rest[0]["detail"].as_str().unwrap().contains("6 entries"), "{rest:?}");
}

#[test]
fn once_answers_as_the_other_commands_do() {
    let mut device = Device::new();
    let once = |device: &Device, args: &[&str]| {
        let ran = device.command(&[&["--once"], args].concat()).output().unwrap();
        let out = String::from_utf8(ran.stdout).unwrap();
        let events: Vec<_> = out
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["ima"]["event"].clone())
            .map(|event| event.as_str().unwrap().to_owned())
            .collect();
        (ran.status.code().unwrap(), events, String::from_utf8(ran.stderr).unwrap())
    };
    let json = ["--format", "json"];
    let signature = device.made.signature("a");
    device.grow(|list| list.file("/a", b"a", &signature));
    let (code, events, said) = once(&device, &json);
    assert_eq!((code, events.join(" ").as_str(), said.as_str()), (0, "start stop", ""));
    device.grow(|list| list.file("/a", b"x", b""));
    // The same again is told once, and counted.
    device.grow(|list| list.file("/a", b"x", b""));
    let (code, events, _) = once(&device, &json);
    assert_eq!((code, events.join(" ").as_str()), (1, "start changed left-out stop"));
    device.append(b"\x0a\0\0\0");
    let (code, events, said) = once(&device, &json);
    assert_eq!((code, events.join(" ").as_str()), (2, "start changed left-out stop"));
    assert!(said.contains("ends within entry 4"), "{said}");
    // A record that nobody can read, and one behind it.
    fs::write(device.path("list"), &device.list.binary).unwrap();
    device.list.add("ima-next", &[digest(b"a"), text("/a")]);
    device.list.file("/b", b"x", b"");
    fs::write(device.path("list"), &device.list.binary).unwrap();
    let (code, events, _) = once(&device, &json);
    let want = "start changed unreadable changed left-out stop";
    assert_eq!((code, events.join(" ").as_str()), (1, want));
    device.append(&[0xff; 64]);
    let (code, events, said) = once(&device, &json);
    let want = "start changed unreadable changed unreadable left-out stop";
    assert_eq!((code, events.join(" ").as_str()), (2, want));
    assert!(said.contains("where its next record begins cannot be told"), "{said}");
    fs::remove_file(device.path("list")).unwrap();
    let (code, events, said) = once(&device, &json);
    assert_eq!((code, events.len()), (2, 0));
    assert!(said.contains("it takes root, a kernel with IMA"), "{said}");
}

/// As an image's service starts it: what an image has of it may be missing.
#[test]
fn what_an_image_has_is_taken_as_far_as_it_is_there() {
    let mut device = Device::new();
    device.grow(|list| list.file("/a", b"x", b""));
    let known = device.path("known");
    fs::create_dir(&known).unwrap();
    let events = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ima-policy"));
        command.args(["watch", "--once", "--format", "json", "--modules", "/nowhere"]);
        command.arg("--list").arg(device.path("list")).arg("--known").arg(&known);
        let ran = command.args(["--pcrs", "/nowhere"]).output().unwrap();
        let out = String::from_utf8(ran.stdout).unwrap();
        let line = |line| serde_json::from_str::<Value>(line).unwrap()["ima"].clone();
        let told: Vec<Value> = out.lines().map(line).collect();
        let events: Vec<_> = told.iter().map(|told| told["event"].as_str().unwrap()).collect();
        (ran.status.code().unwrap(), events.join(" "), told[0]["detail"].to_string())
    };
    let (code, told, with) = events();
    assert_eq!((code, told.as_str()), (0, "start stop"));
    assert!(with.contains("no reference; keys: 0"), "{with}");
    fs::copy(device.path("reference"), known.join("reference.json")).unwrap();
    let (code, told, _) = events();
    assert_eq!((code, told.as_str()), (1, "start changed stop"));
    fs::copy(device.path("key.pub"), known.join("ima.der")).unwrap();
    assert!(events().2.contains("keys: 1"));
    // One that is there has to be one.
    fs::write(known.join("reference.json"), "{").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ima-policy"));
    command.args(["watch", "--once", "--known"]).arg(&known);
    assert_eq!(command.output().unwrap().status.code(), Some(2));
}

#[test]
fn modules_and_pcr_are_held_against_the_list() {
    let mut device = Device::new();
    let boot = digest(&[0; 320]).1;
    device.grow(|list| list.add("ima-ng", &[(String::new(), boot), text("boot_aggregate")]));
    let value = device.list.sha256;
    device.pcrs(|index| if index == 10 { value } else { [0; 32] });
    let (running, reports) = device.start(&["--format", "json"]);
    let start = reports.next();
    assert!(start["detail"].as_str().unwrap().contains("PCR 10"), "{start}");
    // One with a record, and one without.
    let signature = device.made.signature("a");
    device.grow(|list| list.file("/usr/lib/modules/6.12/good.ko", b"a", &signature));
    assert_eq!(reports.next()["event"], "module");
    let line = |name| format!("{name} 12288 0 - Live 0x0000000000000000\n");
    fs::write(device.path("modules"), line("good") + &line("evil")).unwrap();
    let began = Instant::now();
    let told = reports.next();
    assert_eq!((&told["event"], &told["name"]), (&"module-unmeasured".into(), &"evil".into()));
    assert!(began.elapsed() < LATEST);
    fs::write(device.path("list"), "").unwrap();
    assert_eq!(reports.next()["event"], "shrank");
    // What explained this one is gone.
    let told = reports.next();
    assert_eq!((&told["event"], &told["name"]), (&"module-unmeasured".into(), &"good".into()));
    running.end();
    assert_eq!(reports.rest().len(), 1);
    // The TPM was extended with what the list does not have, or the list is another one.
    fs::write(device.path("modules"), "").unwrap();
    fs::write(device.path("list"), &device.list.binary).unwrap();
    for (pcr, want) in [(device.list.sha256, None), ([7; 32], Some("pcr-mismatch"))] {
        device.pcrs(|index| if index == 10 { pcr } else { [0; 32] });
        let (mut running, reports) = device.start(&["--format", "json", "--once"]);
        assert_eq!(running.ended().0, i32::from(want.is_some()));
        let told = reports.rest();
        let found = told.iter().find(|told| told["event"] == "pcr-mismatch");
        assert_eq!(found.map(|told| told["event"].as_str().unwrap()), want, "{told:?}");
    }
    // PCR 0-9 are others than the first record says.
    device.pcrs(|index| if index == 10 { device.list.sha256 } else { [1; 32] });
    let (mut running, reports) = device.start(&["--format", "json", "--once"]);
    assert_eq!(running.ended().0, 1);
    assert!(reports.rest().iter().any(|told| told["event"] == "other-boot"));
}

/// What comes while nobody listens is not lost, and the same holds where it is too busy.
#[test]
fn a_log_that_is_away_gets_everything_when_it_is_back() {
    let mut device = Device::new();
    let path = device.path("log");
    let socket = path.to_str().unwrap();
    for number in 0..50 {
        device.grow(|list| list.file(&format!("/{number}"), b"x", b""));
    }
    let (running, _reports) = device.start(&["--socket", socket]);
    let mut next = 0;
    for _ in 0..2 {
        let receiver = UnixDatagram::bind(&path).unwrap();
        receiver.set_read_timeout(Some(DEADLINE)).unwrap();
        // Some of them, and it is gone again.
        let until = next + 20;
        while next < until {
            let mut bytes = [0; 4096];
            let length = receiver.recv(&mut bytes).unwrap();
            let told = String::from_utf8(bytes[..length].to_vec()).unwrap();
            let (head, json) = told.split_once(": @cee: ").unwrap();
            assert!(head.starts_with('<') && head.contains(">ima-policy["), "{told}");
            let told: Value = serde_json::from_str(json).unwrap();
            if told["ima"]["event"] == "start" {
                continue;
            }
            // What its queue had when it went away is lost with it: not with us.
            let entry = told["ima"]["entry"].as_u64().unwrap();
            assert!(entry > next, "{entry} {next}");
            next = entry;
        }
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(running.end().0, 0);
}

/// As systemd starts it.
#[test]
fn systemd_is_told_when_it_is_ready_alive_and_ending() {
    let device = Device::new();
    let path = device.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let next = || {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let mut command = device.command(&["--format", "json"]);
    let child = command.env("NOTIFY_SOCKET", &path).spawn().unwrap();
    let running = Running(child);
    assert_eq!(next().trim_end(), "READY=1");
    assert_eq!(next().trim_end(), "WATCHDOG=1");
    assert_eq!(running.end().0, 0);
    let all: Vec<String> =
        std::iter::repeat_with(next).take_while(|told| !told.starts_with("STOPPING=1")).collect();
    assert!(all.iter().all(|told| told.starts_with("WATCHDOG=1")), "{all:?}");
}

/// Its memory is the program's own, whatever the list has.
#[test]
fn a_long_list_takes_no_memory() {
    const ENTRIES: usize = 250_000;
    const KIB: u64 = 48 << 10;
    let mut device = Device::new();
    device.grow(|list| {
        list.file("/usr/lib/aarch64-linux-gnu/a-library-of-a-long-name.so.6", b"a", &[3; 72])
    });
    let path = device.path("list");
    fs::write(&path, device.list.binary.repeat(ENTRIES)).unwrap();
    assert!(fs::metadata(&path).unwrap().len() > KIB << 10, "premise");
    let limited = |kib: u64| {
        let line = format!("ulimit -v {kib}; exec \"$0\" \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &line]).arg(env!("CARGO_BIN_EXE_ima-policy"));
        command.args(["watch", "--once", "--format", "json", "--modules", "/nowhere"]);
        command.args(["--pcrs", "/nowhere", "--list"]).arg(&path).output().unwrap()
    };
    let ran = limited(KIB);
    let out = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success() && out.contains("250000 entries"), "{out}");
    assert!(!limited(2 << 10).status.success(), "premise: there is a limit");
}

/// A real rsyslogd takes the reports as fields.
#[test]
fn rsyslog_has_the_fields() {
    let mut device = Device::new();
    let (socket, out) = (device.path("log"), device.path("out"));
    let Some(rsyslog) = rsyslog(&device, &socket, &out) else { return };
    let names = [
        "/tmp/a\n<1>Jan  1 00:00:00 sshd: forged",
        "/tmp/\",\"severity\":\"info\",\"x\":\"",
        "/tmp/\u{1b}[2J\u{202e}",
        &format!("/{}", "\u{1f600}".repeat(1000)),
    ];
    for name in names {
        device.grow(|list| list.file(name, b"x", b""));
    }
    device.grow(|list| list.file("/usr/lib/modules/6.12/evil.ko", b"x", b""));
    let (running, _reports) = device.start(&["--socket", socket.to_str().unwrap()]);
    let lines = wait_for_lines(&out, names.len() + 2);
    assert_eq!(lines[0]["event"], "start");
    for (name, line) in names.iter().zip(&lines[1..]) {
        let [event, severity, priority, tag] =
            ["event", "severity", "priority", "tag"].map(|key| line[key].as_str().unwrap());
        assert_eq!(
            [event, severity, priority],
            ["unknown", "warning", "authpriv.warning"],
            "{line}"
        );
        assert!(tag.starts_with("ima-policy["), "{line}");
        let found = line["name"].as_str().unwrap();
        let whole = found.strip_suffix("...").unwrap_or(found);
        assert!(name.starts_with(whole) && whole.len() > 10, "{line}");
        assert_eq!(line["digest"], digest(b"x").0);
    }
    let last = &lines[names.len() + 1];
    assert_eq!((&last["event"], &last["priority"]), (&"module".into(), &"authpriv.alert".into()));
    let began = Instant::now();
    device.grow(|list| list.file("/late", b"late", b""));
    wait_for_lines(&out, names.len() + 3);
    assert!(began.elapsed() < LATEST, "{:?}", began.elapsed());
    assert_eq!(running.end().0, 0);
    let lines = wait_for_lines(&out, names.len() + 4);
    assert_eq!(lines.last().unwrap()["event"], "stop");
    drop(rsyslog);
}

/// Debian's rsyslogd on a socket of its own, with what this program's README says of fields.
fn rsyslog(device: &Device, socket: &Path, out: &Path) -> Option<Running> {
    let configuration = format!(
        "module(load=\"imuxsock\" SysSock.Use=\"off\")\n\
         module(load=\"mmjsonparse\")\n\
         input(type=\"imuxsock\" Socket=\"{}\")\n\
         template(name=\"fields\" type=\"list\" option.jsonf=\"on\") {{\n\
           property(outname=\"event\" name=\"$!ima!event\" format=\"jsonf\")\n\
           property(outname=\"severity\" name=\"$!ima!severity\" format=\"jsonf\")\n\
           property(outname=\"name\" name=\"$!ima!name\" format=\"jsonf\")\n\
           property(outname=\"digest\" name=\"$!ima!digest\" format=\"jsonf\")\n\
           property(outname=\"tag\" name=\"syslogtag\" format=\"jsonf\")\n\
           property(outname=\"priority\" name=\"pri-text\" format=\"jsonf\")\n\
         }}\n\
         action(type=\"mmjsonparse\")\n\
         if $parsesuccess == \"OK\" then action(type=\"omfile\" file=\"{}\" template=\"fields\")\n",
        socket.display(),
        out.display()
    );
    let file = device.path("rsyslog.conf");
    fs::write(&file, configuration).unwrap();
    let started = Command::new("rsyslogd")
        .arg("-n")
        .arg("-f")
        .arg(&file)
        .arg("-i")
        .arg(device.path("rsyslog.pid"))
        .stdout(Stdio::null())
        .spawn();
    match started {
        Ok(child) => Some(Running(child)),
        Err(_) if std::env::var_os("MSEC_REQUIRE_TOOLS").is_none() => None,
        Err(error) => panic!("rsyslogd: {error}"),
    }
}

fn wait_for_lines(path: &Path, number: usize) -> Vec<Value> {
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<Value> =
            text.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
        if lines.len() >= number {
            assert_eq!(lines.len(), number, "{text}");
            return lines;
        }
        assert!(began.elapsed() < DEADLINE, "{text}");
        thread::sleep(Duration::from_millis(20));
    }
}
