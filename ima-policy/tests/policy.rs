//! The commands that write and check policies.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn run(args: &[&str]) -> Ran {
    let ran = Command::new(env!("CARGO_BIN_EXE_ima-policy")).args(args).output().unwrap();
    Ran {
        code: ran.status.code().unwrap(),
        out: String::from_utf8(ran.stdout).unwrap(),
        err: String::from_utf8(ran.stderr).unwrap(),
    }
}

/// A root with a program, a script, a library that cannot be started, a module, and a text.
fn root(dir: &Path) -> String {
    let put = |name: &str, mode: u32, bytes: &[u8]| {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    put("usr/bin/true", 0o755, &fs::read("/bin/true").unwrap());
    put("usr/bin/script", 0o755, b"#!/bin/sh\n");
    put("usr/lib/x.so", 0o644, &fs::read("/bin/true").unwrap());
    put("lib/modules/6.12.0-msec/kernel/x.ko.xz", 0o644, b"x");
    put("etc/motd", 0o644, b"x");
    dir.to_str().unwrap().to_owned()
}

#[test]
fn a_policy_is_made_and_the_same_kernel_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(&dir.path().join("root"));
    let policy = dir.path().join("policy");
    let policy = policy.to_str().unwrap();
    for (profile, rules) in [("measure", 10), ("appraise", 18), ("lockdown", 30)] {
        let ran = run(&["generate", &root, "--profile", profile, "--output", policy]);
        // What has to be signed is not: the policy is there, the answer is no.
        assert_eq!(ran.code, i32::from(profile != "measure"), "{}", ran.err);
        let text = fs::read_to_string(policy).unwrap();
        assert!(
            text.contains("2 programs and scripts, 1 libraries, 1 kernel modules and 0"),
            "{text}"
        );
        let checked = run(&["check", policy, "--kernel", "6.12.0-msec"]);
        assert_eq!((checked.code, checked.err.as_str()), (0, ""));
        assert_eq!(checked.out, format!("Linux 6.12 takes all {rules} rules\n"));
    }
}

#[test]
fn code_without_a_signature_is_named_until_it_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(&dir.path().join("root"));
    let generate = ["generate", &root, "--profile", "appraise", "--format", "json"];
    let ran = run(&generate);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("/usr/bin/script has no signature"), "{}", ran.err);
    let told: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let unsigned = told["unsigned"].as_array().unwrap();
    let kinds: Vec<_> = unsigned.iter().map(|file| file["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["module", "program", "program", "library"]);
    let key = dir.path().join("key");
    let key = key.to_str().unwrap();
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key])
        .output()
        .unwrap();
    assert!(made.status.success());
    let signed = run(&["sign", &root, "--key", key]);
    assert_eq!(signed.code, 0, "{}", signed.err);
    let ran = run(&generate);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}

#[test]
fn what_cannot_be_is_refused_with_a_word_of_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let root = root(&dir.path().join("root"));
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("config"), "CONFIG_IMA=y\n").unwrap();
    fs::write(at("policy"), "measure func=BPRM_CHECK\nmeasure func=KEY_CHECK\n").unwrap();
    fs::write(at("bad"), "measure func=BPRM_CHECK\nmeasure func=BRPM_CHECK\n").unwrap();
    fs::create_dir(at("empty")).unwrap();
    let (config, policy, bad, empty) = (at("config"), at("policy"), at("bad"), at("empty"));
    let of = |args: &[&str]| {
        let ran = run(args);
        (ran.code, ran.out + &ran.err)
    };
    let (code, said) = of(&["generate", &empty]);
    assert!(code == 2 && said.contains("say with --kernel"), "{said}");
    let (code, said) =
        of(&["generate", &root, "--profile", "appraise", "--kernel-config", &config]);
    assert!(code == 2 && said.contains("built without CONFIG_IMA_APPRAISE"), "{said}");
    assert_eq!(of(&["generate", &root, "--kernel-config", &config]).0, 0, "premise");
    let (code, said) = of(&["check", &policy, "--kernel", "6.12", "--kernel-config", &config]);
    assert!(code == 2 && said.contains("line 2: `KEY_CHECK`"), "{said}");
    assert_eq!(of(&["check", &policy, "--kernel", "6.12"]).0, 0, "premise");
    let (code, said) = of(&["check", &bad, "--kernel", "6.12"]);
    assert!(code == 2 && said.contains("line 2: `func` does not take `BRPM_CHECK`"), "{said}");
    assert_eq!(of(&["check", &bad, "--kernel", "5.4"]).0, 2);
}
