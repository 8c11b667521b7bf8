//! `make bench`: `reference` beside `sha256sum` on the same tree. Prints a table, then one
//! line of JSON; asserts nothing but that both find the same.
//!
//! Times are minimums of several rounds, in which the programs take turns. The tree is in the
//! page cache: what is compared is hashing and walking, not the disk.

// As in tests: what fails ends the run.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 7;

fn main() {
    // `cargo test --all-targets` builds and starts this too.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped: run it with `cargo bench`");
        return;
    }
    let tree = std::env::var("TREE").unwrap_or("/usr/lib".to_owned());
    let cores = std::thread::available_parallelism().unwrap().get();
    let dir = tempfile::tempdir().unwrap();
    let list = dir.path().join("sums");
    let (mut one, mut many) = ([Duration::MAX; 2], [Duration::MAX; 2]);
    for _ in 0..=ROUNDS {
        one[0] = one[0].min(ours(&tree, 1, dir.path()));
        one[1] = one[1].min(theirs(&tree, 1, &list));
        many[0] = many[0].min(ours(&tree, cores, dir.path()));
        many[1] = many[1].min(theirs(&tree, cores, &list));
    }
    let found = std::fs::read(dir.path().join("reference")).unwrap();
    let found: serde_json::Value = serde_json::from_slice(&found).unwrap();
    let files: usize = found["files"]
        .as_object()
        .unwrap()
        .values()
        .map(|digests| digests["sha256"].as_array().unwrap().len())
        .sum();
    let sums = std::fs::read(&list).unwrap();
    let theirs = sums.iter().filter(|byte| **byte == b'\n').count();
    let mib = Command::new("du").args(["-xsm", "--apparent-size", &tree]).output().unwrap();
    let mib: f64 =
        String::from_utf8_lossy(&mib.stdout).split('\t').next().unwrap().parse().unwrap();
    let seconds = |time: Duration| time.as_secs_f64();
    let figures = [
        ("digests in the reference (several of a name, once each)", files as f64, ""),
        ("files that sha256sum hashed", theirs as f64, ""),
        ("the tree", mib, "MiB"),
        ("reference, one thread", seconds(one[0]) * 1e3, "ms"),
        ("sha256sum, one process", seconds(one[1]) * 1e3, "ms"),
        ("ratio, one", seconds(one[0]) / seconds(one[1]), ""),
        ("cores", cores as f64, ""),
        ("reference, a thread for each core", seconds(many[0]) * 1e3, "ms"),
        ("xargs -P sha256sum, a process for each core", seconds(many[1]) * 1e3, "ms"),
        ("ratio, each core", seconds(many[0]) / seconds(many[1]), ""),
        ("reference, per second", mib / seconds(many[0]), "MiB/s"),
    ];
    for (name, value, unit) in figures {
        println!("{name:<58} {value:>12.3} {unit}");
    }
    let json: serde_json::Map<String, serde_json::Value> =
        figures.iter().map(|(name, value, _)| ((*name).to_owned(), (*value).into())).collect();
    println!("{}", serde_json::Value::Object(json));
}

fn timed(command: &mut Command) -> Duration {
    let start = Instant::now();
    assert!(command.status().unwrap().success(), "{command:?}");
    start.elapsed()
}

fn ours(tree: &str, threads: usize, dir: &Path) -> Duration {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ima-policy"));
    command.args(["reference", tree, "--output"]).arg(dir.join("reference"));
    timed(command.env("RAYON_NUM_THREADS", threads.to_string()).stdout(Stdio::null()))
}

/// As many files for a process as its command line holds, or when there are several, few
/// enough that none waits for another at the end.
fn theirs(tree: &str, processes: usize, list: &Path) -> Duration {
    let each = if processes == 1 { "" } else { "-n 128" };
    let script = format!(
        "find \"$1\" -xdev -type f -print0 | xargs -0 -P {processes} {each} sha256sum >\"$2\""
    );
    timed(Command::new("sh").args(["-c", &script, "sh", tree]).arg(list))
}
