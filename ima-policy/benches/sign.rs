//! `make bench`: signing a tree beside `evmctl` in a loop over its files, and beside
//! `sha256sum` of the same files. Prints a table, then one line of JSON; asserts nothing but
//! that all of them did their work.
//!
//! Times are minimums of several rounds; what is compared takes turns within one run, on the
//! same tree, which is in the page cache. Everybody runs on all processors that there are:
//! `evmctl` and `sha256sum` by `xargs -P`. Beside them the tools as they are, one at a time.

// As in tests: what fails ends the run.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Rounds of each.
const ROUNDS: usize = 5;
/// What is signed: a root that is smaller than Debian's, of the same shape, and a few files
/// that are large, where all time is hashing. Files and bytes of each.
const TREES: [(&str, &[(usize, usize)]); 2] =
    [("root", &[(1200, 3_000), (240, 100_000), (48, 1_500_000)]), ("large", &[(8, 64 << 20)])];

fn main() {
    // `cargo test --all-targets` builds and starts this too.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped: run it with `cargo bench`");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let keys = [
        ("RSA-2048", ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
        ("P-256", ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]),
    ];
    let mut json = serde_json::Map::new();
    for (name, files) in TREES {
        let root = dir.path().join(name);
        let bytes = tree(&root, files);
        let number: usize = files.iter().map(|(number, _)| number).sum();
        println!("{name}: {number} files, {:.1} MiB", bytes as f64 / f64::from(1 << 20));
        for (kind, args) in keys {
            let key = dir.path().join(format!("{name}-{kind}"));
            done(Command::new("openssl").arg("genpkey").args(args).arg("-out").arg(&key));
            let figures = compare(&root, number, &key);
            let ours = figures[0].1;
            println!("  {kind}");
            for (what, time) in figures {
                let ratio = time.as_secs_f64() / ours.as_secs_f64();
                let ms = time.as_secs_f64() * 1e3;
                println!("    {what:<42} {ms:>10.1} ms  {ratio:>8.2} times ours");
                json.insert(format!("{name}, {kind}: {what}"), ms.into());
            }
        }
    }
    println!("{}", serde_json::Value::Object(json));
}

/// Files of bytes without pattern; how many bytes that are.
fn tree(root: &Path, files: &[(usize, usize)]) -> usize {
    let mut state = 1_u64;
    let mut total = 0;
    for (number, size) in files {
        for at in 0..*number {
            let dir = root.join(format!("{size}/{}", at % 20));
            std::fs::create_dir_all(&dir).unwrap();
            let mut bytes = Vec::with_capacity(*size + 8);
            while bytes.len() < *size {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                bytes.extend_from_slice(&state.to_be_bytes());
            }
            bytes.truncate(*size);
            std::fs::write(dir.join(at.to_string()), &bytes).unwrap();
            total += size;
        }
    }
    total
}

/// Everybody's time over a tree, ours first.
fn compare(root: &Path, files: usize, key: &Path) -> Vec<(&'static str, Duration)> {
    let ours = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ima-policy"));
        command.arg("sign").arg(root).arg("--key").arg(key).args(more);
        command
    };
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-euc", script, "sh"]).arg(root).arg(key);
        // As many at a time that a process is no cost, and that all processors have some.
        command.arg((files / 16).clamp(1, 64).to_string());
        command
    };
    // Portable signatures have no generation, but evmctl asks the file system for it.
    let evmctl = "evmctl --generation 0 sign --imasig --portable --key";
    let cases: Vec<(&'static str, bool, Command)> = vec![
        ("ima-policy sign --evm", true, ours(&["--evm"])),
        ("ima-policy sign --evm, all signed before", false, ours(&["--evm"])),
        ("ima-policy sign", true, ours(&[])),
        ("ima-policy sign --jobs 1", true, ours(&["--jobs", "1"])),
        (
            "evmctl sign --portable, one a processor",
            true,
            shell(&format!(r#"find "$1" -type f -print0 | xargs -0 -P$(nproc) -n1 {evmctl} "$2""#)),
        ),
        (
            "evmctl sign --portable, one by one",
            true,
            shell(&format!(r#"find "$1" -type f -print0 | xargs -0 -n1 {evmctl} "$2""#)),
        ),
        (
            "sha256sum, one a processor",
            false,
            shell(r#"find "$1" -type f -print0 | xargs -0 -P$(nproc) -n$3 sha256sum"#),
        ),
        ("sha256sum", false, shell(r#"find "$1" -type f -print0 | xargs -0 sha256sum"#)),
    ];
    let mut cases: Vec<_> = cases.into_iter().map(|case| (case, Duration::MAX)).collect();
    for _ in 0..ROUNDS {
        for ((_, starts_bare, command), least) in &mut cases {
            if *starts_bare {
                strip(root);
            }
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let start = Instant::now();
            let status = command.status().unwrap();
            *least = start.elapsed().min(*least);
            assert!(status.success(), "{command:?}");
        }
    }
    cases.into_iter().map(|((what, ..), least)| (what, least)).collect()
}

/// Takes all signatures away.
fn strip(dir: &Path) {
    let mut open: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            for name in ["security.ima", "security.evm"] {
                rustix::fs::lremovexattr(&path, name).ok();
            }
        }
    }
}

fn done(command: &mut Command) {
    let status = command.stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}");
}
