//! A device in quarantine, in network namespaces: the operator reaches it, nobody else does, and
//! it reaches nobody else.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "common/net.rs"]
mod net;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use net::{DEVICE, Net};
use serde_json::Value;

/// Exit code and output of `quarantine` on the device.
fn says(net: &Net, state: &Path, line: &str) -> (i32, String, String) {
    let mut command = net.command(DEVICE, env!("CARGO_BIN_EXE_ima-policy"));
    let ran = command
        .arg("quarantine")
        .args(line.split_whitespace())
        .arg("--state-dir")
        .arg(state)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (ran.status.code().unwrap(), text(ran.stdout), text(ran.stderr))
}

fn does(net: &Net, state: &Path, line: &str) {
    let (code, out, err) = says(net, state, line);
    assert_eq!(code, 0, "{line}: {out}{err}");
}

fn status(net: &Net, state: &Path) -> (i32, Value) {
    let (code, out, _) = says(net, state, "status --format json");
    (code, serde_json::from_str(&out).unwrap())
}

fn nft(net: &Net, args: &[&str]) {
    assert!(net.command(DEVICE, "nft").args(args).output().unwrap().status.success());
}

const BOTH: [bool; 2] = [true; 2];
const NONE: [bool; 2] = [false; 2];
const FREE: [[bool; 2]; 4] = [BOTH; 4];
const OPERATOR_ALONE: [[bool; 2]; 4] = [BOTH, BOTH, NONE, NONE];
const ON: &str = "on --allow 10.99.1.2 --allow fd99:1::/64";

#[test]
fn the_operator_alone_reaches_a_device_in_quarantine() {
    let Some(mut net) = Net::new("q") else { return };
    net.serve();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    assert_eq!(net.paths(), FREE, "premise");
    assert_eq!(status(&net, &state).0, 0);

    for _ in 0..2 {
        does(&net, &state, ON);
        assert_eq!(net.paths(), OPERATOR_ALONE);
        assert!(net.reaches(DEVICE, "127.0.0.1"), "itself");
        let (code, told) = status(&net, &state);
        let (in_force, kept) = (&told["in_force"], &told["kept"]);
        assert_eq!((code, in_force, kept), (1, &true.into(), &true.into()));
        assert_eq!(told["allow"], serde_json::json!(["10.99.1.2/32", "fd99:1::/64"]));
    }
    // Other addresses, in one step; and of one family alone.
    does(&net, &state, "on --allow 10.99.2.2");
    assert_eq!(net.paths(), [NONE, NONE, [true, false], [true, false]]);

    for _ in 0..2 {
        does(&net, &state, "off");
        assert_eq!(net.paths(), FREE);
        assert_eq!(status(&net, &state).0, 0);
    }
}

#[test]
fn what_other_tables_let_through_stays_out_and_they_stay() {
    let Some(mut net) = Net::new("o") else { return };
    net.serve();
    let dir = tempfile::tempdir().unwrap();
    let hook = "{ type filter hook input priority -400; policy accept; }";
    nft(&net, &["add", "table", "inet", "other"]);
    nft(&net, &["add", "chain", "inet", "other", "input", hook]);
    does(&net, dir.path(), ON);
    assert_eq!(net.paths(), OPERATOR_ALONE);
    does(&net, dir.path(), "off");
    nft(&net, &["list", "table", "inet", "other"]);
}

#[test]
fn a_restart_ends_in_quarantine_again() {
    let Some(mut net) = Net::new("r") else { return };
    net.serve();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path();
    does(&net, state, "restore");
    assert_eq!(net.paths(), FREE, "nothing was kept");
    does(&net, state, ON);
    // The kernel of the next boot knows no table.
    nft(&net, &["flush", "ruleset"]);
    assert_eq!(net.paths(), FREE, "premise");
    let (code, told) = status(&net, state);
    assert_eq!((code, &told["in_force"], &told["kept"]), (1, &false.into(), &true.into()));
    does(&net, state, "restore");
    assert_eq!(net.paths(), OPERATOR_ALONE);
    // What was kept is broken: nobody is allowed.
    let kept = fs::read(state.join("quarantine.json")).unwrap();
    for broken in [&kept[..kept.len() / 2], b"", b"{}"] {
        nft(&net, &["flush", "ruleset"]);
        fs::write(state.join("quarantine.json"), broken).unwrap();
        let (code, _, err) = says(&net, state, "restore");
        assert_eq!(code, 2);
        assert!(err.contains("nobody is allowed"), "{err}");
        assert_eq!(net.paths(), [NONE; 4]);
    }
    // And a new one mends it.
    does(&net, state, ON);
    assert_eq!(net.paths(), OPERATOR_ALONE);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let Some(mut net) = Net::new("c") else { return };
    net.serve();
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    for (line, code) in [
        ("on", 64),
        ("on --allow everybody", 2),
        ("on --allow 0.0.0.0/0", 2),
        ("on --allow 1/33", 2),
    ] {
        assert_eq!(says(&net, &state, line).0, code, "{line}");
        assert!(!state.exists(), "{line}");
    }
    assert_eq!(net.paths(), FREE);
    // A state that cannot be kept: the network is dropped all the same, and it is told.
    fs::write(&state, "no directory").unwrap();
    let (code, _, err) = says(&net, &state, ON);
    assert_eq!(code, 2);
    assert!(err.contains("ends with the next restart"), "{err}");
    assert_eq!(net.paths(), OPERATOR_ALONE);
    // Without the packet filter it is kept for the next boot, and told.
    let state = dir.path().join("other");
    let nothing = dir.path().join("bin");
    fs::create_dir(&nothing).unwrap();
    let broken = nothing.join("nft");
    fs::write(&broken, "#!/bin/sh\necho broken >&2\nexit 1\n").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = net.command(DEVICE, "unshare");
    let script = format!(
        "mount --bind {} /usr/sbin/nft && exec {} quarantine {ON} --state-dir {}",
        broken.display(),
        env!("CARGO_BIN_EXE_ima-policy"),
        state.display()
    );
    let ran =
        command.args(["--mount", "--propagation=unchanged", "sh", "-c", &script]).output().unwrap();
    let err = String::from_utf8(ran.stderr).unwrap();
    assert_eq!((ran.status.code(), err.contains("nft: broken")), (Some(2), true), "{err}");
    assert!(state.join("quarantine.json").exists());
}
