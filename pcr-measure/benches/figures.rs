//! `make bench`: how fast this crate hashes and replays, and what it holds and
//! reads for it. Prints a table, then one line of JSON; asserts nothing.
//!
//! Times are minimums of several rounds; what is compared alternates within one
//! run, on the same file.

// As in tests: what fails ends the run.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pcr_measure::eventlog::EventLog;
use pcr_measure::manifest::Measurement;
use pcr_measure::{Algorithm, Digest};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Rounds of what runs for a tenth of a second, and of what runs for less.
const ROUNDS: usize = 20;
const SHORT_ROUNDS: usize = 200;

/// Largest log that firmware of a board reserves memory for, in bytes (U-Boot
/// 2025.01, `TPM2_EVENT_LOG_SIZE`).
const LOG_SIZE: usize = 64 * KIB;

const MANIFEST: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/uboot-expected.manifest.json");

fn main() {
    // `cargo test --all-targets` builds and starts this too.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped: run it with `cargo bench`");
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let mut figures = Figures::default();
    hashing(dir.path(), &mut figures);
    memory(&mut figures);
    replaying(&mut figures);
    predicting(dir.path(), &mut figures);
    figures.print();
}

/// Names, values and units, in the order in which they were found.
#[derive(Default)]
struct Figures(Vec<(&'static str, f64, &'static str)>);

impl Figures {
    fn add(&mut self, name: &'static str, value: f64, unit: &'static str) {
        self.0.push((name, value, unit));
    }

    fn print(&self) {
        for (name, value, unit) in &self.0 {
            println!("{name:<44} {value:>12.3} {unit}");
        }
        let json: serde_json::Map<String, serde_json::Value> =
            self.0.iter().map(|(name, value, _)| ((*name).to_owned(), (*value).into())).collect();
        println!("{}", serde_json::Value::Object(json));
    }
}

/// Milliseconds.
fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    black_box(work());
    start.elapsed()
}

/// A file of bytes without pattern.
fn file(dir: &Path, name: &str, size: usize) -> PathBuf {
    let path = dir.join(name);
    let mut state = size as u64 | 1;
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(size);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn predict() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pcr-measure"));
    command.args(["predict", MANIFEST]).stdout(Stdio::null());
    command
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Whole processes: ours predicts from a file, openssl digests it.
fn hashing(dir: &Path, figures: &mut Figures) {
    let path = file(dir, "64M", 64 * MIB);
    let (mut ours, mut theirs, mut library) = (Duration::MAX, Duration::MAX, Duration::MAX);
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256"]).arg(&path).stdout(Stdio::null());
    let mut command = predict();
    command.arg("--artifact").arg(format!("kernel={}", path.display()));
    for _ in 0..ROUNDS {
        ours = ours.min(timed(|| run(&mut command)));
        theirs = theirs.min(timed(|| run(&mut openssl)));
        let measure = || Measurement::of_reader(&mut File::open(&path).unwrap()).unwrap();
        library = library.min(timed(measure));
    }
    figures.add("predict, an artifact of 64 MiB", ms(ours), "ms");
    figures.add("openssl dgst -sha256, the same file", ms(theirs), "ms");
    figures.add("ratio to openssl", ours.as_secs_f64() / theirs.as_secs_f64(), "");
    figures.add("library alone, the same file", ms(library), "ms");
    figures.add("library alone, per second", 64.0 / library.as_secs_f64(), "MiB/s");
}

/// Peak memory of the command with an artifact of `size` bytes. It comes through
/// a pipe: while that is open the process lives, and can be asked.
fn peak(size: usize) -> f64 {
    let mut command = predict();
    command.args(["--artifact", "kernel=/dev/stdin"]).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let piece = vec![0x5a; MIB];
    for _ in 0..size / MIB {
        pipe.write_all(&piece).unwrap();
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    drop(pipe);
    assert!(child.wait().unwrap().success());
    kib
}

fn memory(figures: &mut Figures) {
    let (small, large) = (peak(MIB), peak(256 * MIB));
    figures.add("peak memory, an artifact of 1 MiB", small, "KiB");
    figures.add("peak memory, an artifact of 256 MiB", large, "KiB");
    figures.add("difference", large - small, "KiB");
}

/// A log of 64 KiB in four banks.
fn log(banks: &[Algorithm]) -> Vec<u8> {
    let mut header = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    header.extend((banks.len() as u32).to_le_bytes());
    for bank in banks {
        header.extend(bank.id().to_le_bytes());
        header.extend((bank.size() as u16).to_le_bytes());
    }
    header.push(0);
    let u32s = |numbers: &[u32]| -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    };
    let mut log = [u32s(&[0, 3]), vec![0; 20], u32s(&[header.len() as u32]), header].concat();
    for number in 0_u32.. {
        let mut event = u32s(&[number % 16, 13, banks.len() as u32]);
        for bank in banks {
            event.extend(bank.id().to_le_bytes());
            event.extend(Digest::filled(*bank, number as u8).as_bytes());
        }
        event.extend(u32s(&[32]));
        event.extend([b'x'; 32]);
        if log.len() + event.len() > LOG_SIZE {
            break;
        }
        log.extend(event);
    }
    log
}

fn replaying(figures: &mut Figures) {
    let banks = [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512];
    let bytes = log(&banks);
    let (mut read, mut one, mut all) = (Duration::MAX, Duration::MAX, Duration::MAX);
    for _ in 0..SHORT_ROUNDS {
        read = read.min(timed(|| EventLog::parse(&bytes)));
        one = one.min(timed(|| EventLog::parse(&bytes).replay(Algorithm::Sha256).unwrap()));
        all = all.min(timed(|| {
            let log = EventLog::parse(&bytes);
            banks.map(|bank| log.replay(bank).unwrap())
        }));
    }
    let events = EventLog::parse(&bytes).events.len();
    figures.add("events of a log of 64 KiB in 4 banks", events as f64, "");
    figures.add("read it", ms(read) * 1e3, "us");
    figures.add("read and replay it, SHA-256", ms(one) * 1e3, "us");
    figures.add("read and replay it, all banks", ms(all) * 1e3, "us");
}

/// Bytes that this process and its ended children have read so far.
fn bytes_read() -> f64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

/// Two variants of an image, some of whose files stand in both.
fn predicting(dir: &Path, figures: &mut Figures) {
    // Sizes of a full-sized kernel, an initramfs and a device tree of the Pi 3.
    let sizes = [("kernel", 24 * MIB), ("initramfs", 3 * MIB), ("device tree", 32 * KIB)];
    let with = |command: &mut Command, files: &[(&str, PathBuf)]| {
        for (name, path) in files {
            let (name, path) = (name, path.display());
            command.args(["--artifact".to_owned(), format!("{name}={path}")]);
            command.args(["--variant".to_owned(), format!("next:{name}={path}")]);
            command.args(["--variant".to_owned(), format!("safe:{name}={path}")]);
        }
    };
    let files = sizes.map(|(name, size)| (name, file(dir, name, size)));
    let empty = sizes.map(|(name, _)| (name, file(dir, "empty", 0)));
    let read = |files: &[(&str, PathBuf)]| {
        let mut command = predict();
        with(&mut command, files);
        let before = bytes_read();
        let time = timed(|| run(&mut command));
        (bytes_read() - before, time)
    };
    let (nothing, _) = read(&empty);
    let (bytes, mut time) = read(&files);
    for _ in 0..ROUNDS {
        time = time.min(read(&files).1);
    }
    let size: usize = sizes.iter().map(|(_, size)| size).sum();
    figures.add("artifacts of an image, in 3 variants", size as f64, "bytes");
    figures.add("read for them", bytes - nothing, "bytes");
    figures.add("predict from them", ms(time), "ms");
}
