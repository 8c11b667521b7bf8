use serde_json::json;

use super::*;

fn sha256(byte: u8) -> FileDigest {
    FileDigest::new(None, "sha256", vec![byte; 32]).unwrap()
}

fn verity(byte: u8) -> FileDigest {
    FileDigest { prefix: Some(Prefix::Verity), ..sha256(byte) }
}

fn some() -> Reference {
    let mut reference = Reference::new();
    reference.add_file(b"/bin/sh", sha256(2));
    reference.add_file(b"/bin/sh", sha256(1));
    reference.add_file(b"/bin/sh", sha256(2));
    reference.add_file(b"/\xff%", FileDigest::new(None, "wp512", vec![7; 64]).unwrap());
    reference.add_file(b"/verity", verity(3));
    reference.add_key(b".ima", sha256(4));
    reference.add_buffer(b"kexec-cmdline", sha256(5));
    reference.exclude(["/var/log/.*".to_owned(), "/tmp/".to_owned()]).unwrap();
    reference.ignore_keyring(".evm".to_owned());
    reference
}

#[test]
fn contents_of_a_name_are_known_or_not() {
    let reference = some();
    let sha1 = FileDigest::new(None, "sha1", vec![1; 20]).unwrap();
    let ima = FileDigest { prefix: Some(Prefix::Ima), ..sha256(1) };
    for (name, digest, want) in [
        ("/bin/sh", &sha256(1), Judgement::Known),
        ("/bin/sh", &sha256(2), Judgement::Known),
        ("/bin/sh", &ima, Judgement::Known),
        ("/bin/sh", &sha256(3), Judgement::Changed),
        ("/bin/sh", &sha1, Judgement::OtherHash),
        ("/bin/sh", &verity(1), Judgement::OtherHash),
        ("/verity", &verity(3), Judgement::Known),
        ("/verity", &verity(4), Judgement::Changed),
        ("/verity", &sha256(3), Judgement::OtherHash),
        ("/bin/s", &sha256(1), Judgement::Unknown),
        ("/var/log/x", &sha256(1), Judgement::Excluded),
        ("/tmp/x", &sha256(1), Judgement::Excluded),
        // From the beginning only.
        ("/a/tmp/x", &sha256(1), Judgement::Unknown),
        (".ima", &sha256(4), Judgement::Unknown),
    ] {
        assert_eq!(reference.judge(name.as_bytes(), digest), want, "{name} {digest:?}");
    }
    for (name, byte, want) in [
        (".ima", 4, Judgement::Known),
        (".ima", 5, Judgement::Changed),
        (".evm", 9, Judgement::Excluded),
        (".platform", 9, Judgement::Unknown),
        ("kexec-cmdline", 5, Judgement::Known),
        ("kexec-cmdline", 4, Judgement::Changed),
        ("/bin/sh", 1, Judgement::Unknown),
    ] {
        assert_eq!(reference.judge_buffer(name.as_bytes(), &sha256(byte)), want, "{name}");
    }
}

/// What is excluded may change; what is known stays known.
#[test]
fn an_excluded_name_with_a_known_content_is_known() {
    let mut reference = some();
    reference.add_file(b"/tmp/x", sha256(1));
    assert_eq!(reference.judge(b"/tmp/x", &sha256(1)), Judgement::Known);
    assert_eq!(reference.judge(b"/tmp/x", &sha256(2)), Judgement::Excluded);
}

#[test]
fn a_reference_comes_back_from_its_json() {
    let reference = some();
    let text = reference.to_json().unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["files"]["/bin/sh"]["sha256"], json!(["01".repeat(32), "02".repeat(32)]));
    assert_eq!(value["files"]["/%FF%25"]["wp512"], json!(["07".repeat(64)]));
    assert_eq!(value["files"]["/verity"]["verity:sha256"], json!(["03".repeat(32)]));
    let again = Reference::from_json(text.as_bytes()).unwrap();
    assert_eq!(again, reference);
    assert_eq!(again.to_json().unwrap(), text);
    assert_eq!(again.judge(b"/tmp/x", &sha256(2)), Judgement::Excluded);
}

#[test]
fn what_is_no_reference_is_refused() {
    let good: serde_json::Value = serde_json::from_str(&some().to_json().unwrap()).unwrap();
    let refused = |value: &serde_json::Value| {
        Reference::from_json(value.to_string().as_bytes()).unwrap_err().to_string()
    };
    assert!(Reference::from_json(good.to_string().as_bytes()).is_ok(), "premise");
    let with = |pointer: &str, value: serde_json::Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        refused(&changed)
    };
    let mut newer = good.clone();
    newer["schema"] = json!("msec-boot/ima-reference/2");
    newer["more"] = json!(1);
    assert!(refused(&newer).contains("ima-reference/2"), "the version is told, not the field");
    let mut more = good.clone();
    more["more"] = json!(1);
    assert!(refused(&more).contains("unknown field"));
    for (pointer, value, want) in [
        ("/files", json!({"%41": {"sha1": ["00".repeat(20)]}}), "not written as a name"),
        ("/files", json!({"a".repeat(5000): {"sha1": ["00".repeat(20)]}}), "too long"),
        ("/files", json!({"/a": {}}), "no digest"),
        ("/files", json!({"/a": {"sha1": []}}), "no digest"),
        ("/files", json!({"/a": {"sha1": ["00"]}}), "with 1 bytes"),
        ("/files", json!({"/a": {"sha 1": ["00"]}}), "algorithm"),
        ("/files", json!({"/a": {"sha1": ["zz"]}}), "invalid character"),
        ("/files", json!({"/a": {"sha1": ["00".repeat(20), "00".repeat(20)]}}), "twice"),
        ("/files", json!([]), "expected names"),
        ("/excludes", json!(["("]), "cannot be excluded"),
        ("/excludes", json!([")|("]), "cannot be excluded"),
        ("/excludes", json!(["a{1000}{1000}{1000}"]), "cannot be excluded"),
        ("/keyrings", json!(null), "expected names"),
    ] {
        let error = with(pointer, value);
        assert!(error.to_lowercase().contains(want), "{want}: {error}");
    }
    let twice = some().to_json().unwrap().replace("/verity\"", "/bin/sh\"");
    assert!(Reference::from_json(twice.as_bytes()).unwrap_err().to_string().contains("twice"));
    let text = some().to_json().unwrap();
    for cut in 0..text.trim_end().len() {
        assert!(Reference::from_json(&text.as_bytes()[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn merging_keeps_all_of_both() {
    let mut one = Reference::new();
    one.add_file(b"/bin/sh", sha256(9));
    one.merge(some()).unwrap();
    for byte in [1, 2, 9] {
        assert_eq!(one.judge(b"/bin/sh", &sha256(byte)), Judgement::Known);
    }
    assert_eq!(one.judge(b"/tmp/x", &sha256(9)), Judgement::Excluded);
    assert_eq!(one.counts(), [3, 1, 1]);
}
