//! Entries of `ima-modsig`: signatures that are appended to modules, made by Linux's own sign-file
//! (`vectors/modsig`) and by OpenSSL, judged by `ima-policy verify`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{List, hexed, text};
use ima_policy::signature::{AppendedVerdict, Keyring};
use pcr_measure::digest::Algorithm;
use serde_json::Value;
use tempfile::TempDir;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/modsig")
}

fn vector(name: &str) -> Vec<u8> {
    fs::read(vectors().join(name)).unwrap()
}

type Digested = (String, Vec<u8>);

fn hashed(algorithm: &str, content: &[u8]) -> Digested {
    let known = match algorithm {
        "sha1" => Algorithm::Sha1,
        "sha256" => Algorithm::Sha256,
        "sha384" => Algorithm::Sha384,
        "sha512" => Algorithm::Sha512,
        other => panic!("{other}"),
    };
    let digest = known.hash(&[content]).unwrap();
    let bytes = [algorithm.as_bytes(), b":\0", digest.as_bytes()].concat();
    (format!("{algorithm}:{digest}"), bytes)
}

const NAME: &str = "/usr/lib/modules/m.ko";

/// The file as it is on the disk.
fn whole(content: &[u8], modsig: &[u8]) -> Vec<u8> {
    let mut trailer = [0, 0, 2, 0, 0, 0, 0, 0].to_vec();
    trailer.extend(u32::try_from(modsig.len()).unwrap().to_be_bytes());
    [content, modsig, &trailer, b"~Module signature appended~\n"].concat()
}

/// An entry as the kernel writes it of such a file.
fn entry(content: &[u8], sig: &[u8], d_modsig: Digested, modsig: &[u8]) -> List {
    let mut list = List::new();
    let d_ng = hashed("sha256", &whole(content, modsig));
    list.add("ima-modsig", &[d_ng, text(NAME), hexed(sig), d_modsig, hexed(modsig)]);
    list
}

/// What `ima-policy verify` says of a list: its faults.
fn faults(list: &List, args: &[&str]) -> Vec<String> {
    let dir = TempDir::new().unwrap();
    let [ascii, binary] = list.write(dir.path());
    let told = [ascii, binary].map(|path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ima-policy"));
        command.arg("verify").arg(path).args(["--format", "json"]).args(args);
        let ran = command.output().unwrap();
        let said = String::from_utf8_lossy(&ran.stderr);
        let value: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{said}"));
        let faults: Vec<_> =
            value["faults"].as_object().unwrap().keys().map(ToString::to_string).collect();
        assert_eq!(ran.status.code(), Some(i32::from(!faults.is_empty())), "{said}");
        faults
    });
    assert_eq!(told[0], told[1], "the text and the binary form");
    told[0].clone()
}

const NONE: [&str; 0] = [];

#[test]
fn what_linux_signs_is_known_by_its_key() {
    let content = vector("content");
    let [rsa, ecc] = ["rsa.der", "ecc.der"].map(|name| vectors().join(name));
    let [rsa, ecc] = [rsa.to_str().unwrap(), ecc.to_str().unwrap()];
    for (name, hash, key, other) in [
        ("rsa-sha256", "sha256", rsa, ecc),
        ("rsa-sha256-keyid", "sha256", rsa, ecc),
        ("rsa-sha512", "sha512", rsa, ecc),
        ("ecc-sha384", "sha384", ecc, rsa),
        ("ecc-sha384-keyid", "sha384", ecc, rsa),
    ] {
        let modsig = vector(&format!("{name}.p7s"));
        let list = |content: &[u8], hash| entry(content, &[], hashed(hash, content), &modsig);
        let good = list(&content, hash);
        assert_eq!(faults(&good, &["--keyring", key]), NONE, "{name}");
        assert_eq!(faults(&good, &["--keyring", rsa, "--keyring", ecc]), NONE, "{name}");
        assert_eq!(faults(&good, &["--keyring", other]), ["unknown"], "{name}");
        let another = list(b"another", hash);
        assert_eq!(faults(&another, &["--keyring", key]), ["bad_signature"], "{name}");
        assert_eq!(faults(&another, &["--keyring", other]), ["unknown"], "{name}");
        let differs = if hash == "sha256" { "sha384" } else { "sha256" };
        let other_hash = list(&content, differs);
        assert_eq!(faults(&other_hash, &["--keyring", key]), ["bad_signature"], "{name}");
    }
    // No signature, and one without a digest that this program knows.
    let none = entry(&content, &[], (String::new(), Vec::new()), &[]);
    assert_eq!(faults(&none, &["--keyring", rsa]), ["unknown"]);
    let streebog =
        (format!("streebog256:{}", "00".repeat(32)), [&b"streebog256:\0"[..], &[0; 32]].concat());
    let unknown = entry(&content, &[], streebog, &vector("rsa-sha256.p7s"));
    assert_eq!(faults(&unknown, &["--keyring", rsa]), ["unknown"]);
    let garbage = entry(&content, &[], hashed("sha256", &content), b"\x30\x03no");
    assert_eq!(faults(&garbage, &["--keyring", rsa]), ["bad_signature"]);
}

/// Each bit changed.
#[test]
fn no_other_bytes_verify() {
    let content = vector("content");
    let digest = Algorithm::Sha256.hash(&[&content]).unwrap();
    let mut keyring = Keyring::new();
    keyring.add("rsa", &vector("rsa.der")).unwrap();
    let good = vector("rsa-sha256.p7s");
    let is_good =
        |bytes: &[u8]| matches!(keyring.verify_appended(bytes, &digest), AppendedVerdict::Good(_));
    assert!(is_good(&good), "premise");
    // The names of hashes for all signers, and the parameters of the key's algorithm: nobody
    // looks at them.
    let end = good.len() - 256 - 4;
    let passed_over = [28..41, end - 2..end];
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            let may_be_good = passed_over.iter().any(|range| range.contains(&at));
            assert!(may_be_good || !is_good(&bytes), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn a_reference_judges_the_whole_file() {
    let content = vector("content");
    let modsig = vector("rsa-sha256.p7s");
    let list = entry(&content, &[], hashed("sha256", &content), &modsig);
    let dir = TempDir::new().unwrap();
    let reference = |name: &str, bytes: &[u8]| {
        let root = dir.path().join(name);
        let file = root.join(&NAME[1..]);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
        let json = dir.path().join(format!("{name}.json"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_ima-policy"));
        command.arg("reference").arg(root).arg("--output").arg(&json);
        assert!(command.status().unwrap().success());
        json.to_str().unwrap().to_owned()
    };
    let signed = reference("signed", &whole(&content, &modsig));
    let bare = reference("bare", &content);
    let rsa = vectors().join("rsa.der");
    let keyring = ["--keyring", rsa.to_str().unwrap()];
    assert_eq!(faults(&list, &["--reference", &signed]), NONE);
    assert_eq!(faults(&list, &[&["--reference", &signed], &keyring[..]].concat()), NONE);
    // The same module before it was signed is another file, whoever signed it.
    assert_eq!(faults(&list, &["--reference", &bare]), ["changed"]);
    assert_eq!(faults(&list, &[&["--reference", &bare], &keyring[..]].concat()), ["changed"]);
    // A signature that does not hold is bad, though the reference has the file.
    let bad = entry(&content, &[], hashed("sha256", b"another"), &modsig);
    assert_eq!(faults(&bad, &["--reference", &signed]), NONE, "premise");
    let both = [&["--reference", &signed], &keyring[..]].concat();
    assert_eq!(faults(&bad, &both), ["bad_signature"]);
}

/// OpenSSL's signatures, each a change of one that is taken.
struct Signing {
    dir: TempDir,
}

impl Signing {
    fn new() -> Self {
        let signing = Self { dir: TempDir::new().unwrap() };
        fs::write(signing.dir.path().join("content"), vector("content")).unwrap();
        for name in ["one", "two"] {
            signing.openssl(&format!(
                "req -x509 -newkey rsa:2048 -nodes -keyout {name}.key -subj /CN={name} -out {name}.pem"
            ));
        }
        signing
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn openssl(&self, line: &str) {
        let mut command = Command::new("openssl");
        let ran = command.args(line.split(' ')).current_dir(self.dir.path()).output().unwrap();
        assert!(ran.status.success(), "{line}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    fn sign(&self, how: &str) -> Vec<u8> {
        self.openssl(&format!(
            "cms -sign -binary -nosmimecap -in content -signer one.pem -inkey one.key -outform DER -out p7s {how}"
        ));
        fs::read(self.path("p7s")).unwrap()
    }
}

#[test]
fn what_no_kernel_takes_with_a_module_vouches_for_nothing() {
    let signing = Signing::new();
    let content = vector("content");
    let key = signing.path("one.pem");
    let judged = |how: &str, hash: &str| {
        let list = entry(&content, &[], hashed(hash, &content), &signing.sign(how));
        faults(&list, &["--keyring", &key])
    };
    assert_eq!(judged("-md sha256 -noattr -nocerts", "sha256"), NONE, "premise");
    assert_eq!(judged("-md sha256 -noattr -nocerts -keyid", "sha256"), NONE, "premise");
    // Its own certificate, which the keyring has as well.
    assert_eq!(judged("-md sha256 -noattr", "sha256"), NONE);
    for (how, hash) in [
        ("-md sha256 -nocerts", "sha256"),
        ("-md sha256 -noattr -nocerts -nodetach", "sha256"),
        ("-md sha256 -noattr -nocerts -stream -indef", "sha256"),
        ("-md sha256 -noattr -nocerts -signer two.pem -inkey two.key", "sha256"),
        ("-md sha1 -noattr -nocerts", "sha1"),
        ("-md sha256 -noattr -nocerts -keyopt rsa_padding_mode:pss", "sha256"),
    ] {
        assert_eq!(judged(how, hash), ["unknown"], "{how}");
    }
    // Whom it brings along is nobody.
    let two = signing.path("two.pem");
    let list =
        entry(&content, &[], hashed("sha256", &content), &signing.sign("-md sha256 -noattr"));
    assert_eq!(faults(&list, &["--keyring", &two]), ["unknown"]);
}

/// `sig` is asked first, and decides where its key is known.
#[test]
fn the_attribute_goes_before_what_is_appended() {
    let content = vector("content");
    let modsig = vector("rsa-sha256.p7s");
    let rsa = vectors().join("rsa.der");
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let run = |program: &str, args: &[&str]| {
        let ran = Command::new(program).args(args).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    run("openssl", &["genpkey", "-quiet", "-algorithm", "RSA", "-out", &path("key")]);
    run("openssl", &["pkey", "-in", &path("key"), "-pubout", "-out", &path("pub")]);
    let pem = fs::read(path("key")).unwrap();
    let key = ima_policy::signature::SigningKey::from_pem("key", &pem).unwrap();
    let sign = |bytes: &[u8]| {
        let digest = Algorithm::Sha256.hash(&[bytes]).unwrap();
        let (kind, version) =
            (ima_policy::signature::Kind::File, ima_policy::signature::Version::V2);
        key.sign(kind, version, &digest).unwrap()
    };
    let [good, bad] = [&whole(&content, &modsig)[..], b"other"].map(sign);
    let judged = |sig: &[u8], content: &[u8], keys: &[&str]| {
        let list = entry(&vector("content"), sig, hashed("sha256", content), &modsig);
        let args: Vec<_> = keys.iter().flat_map(|key| ["--keyring", *key]).collect();
        faults(&list, &args)
    };
    let (rsa, public) = (rsa.to_str().unwrap(), path("pub"));
    let both = [rsa, public.as_str()];
    assert_eq!(judged(&good, &content, &both), NONE);
    assert_eq!(judged(&good, b"another", &both), NONE, "the attribute has decided");
    assert_eq!(judged(&bad, &content, &both), ["bad_signature"]);
    assert_eq!(judged(&bad, &content, &[rsa]), NONE, "nobody knows the attribute's key");
    assert_eq!(judged(&bad, b"another", &[rsa]), ["bad_signature"]);
}
