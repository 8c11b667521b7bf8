//! `ima-policy sign` and the library below it, held against `evmctl` and `fsverity`.
//!
//! Attributes `security.*` take root, and a temporary directory whose file system has them. In
//! the build root (`MSEC_REQUIRE_TOOLS`) all of it has to be there.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ima_policy::root::Root;
use ima_policy::sign::{Cause, Options, Plan, sign};
use ima_policy::signature::{Keyring, Kind, Signature, SigningKey, Verdict, Version};
use pcr_measure::digest::{Algorithm, Digest};
use rustix::fs::XattrFlags;
use rustix::io::Errno;

const IMA: &str = "security.ima";
const EVM: &str = "security.evm";
/// `cap_net_raw+ep` (`struct vfs_cap_data` of version 2, include/uapi/linux/capability.h).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Arguments of `openssl genpkey`.
const RSA: [&str; 4] = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const P256: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];

/// A tree of files, and a key beside it.
struct Case {
    dir: tempfile::TempDir,
    root: PathBuf,
}

/// A case with a key of this kind, where files can be signed and `evmctl` is there.
fn case(kind: [&str; 4]) -> Option<Case> {
    let dir = tempfile::tempdir().unwrap();
    let probe = rustix::fs::setxattr(dir.path(), EVM, b"\x05", XattrFlags::empty());
    let there = ["evmctl", "fsverity", "openssl"].iter().all(|tool| {
        let mut command = Command::new(tool);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    });
    if probe.is_err() || !there {
        let why = "root, security.* attributes, evmctl and fsverity are needed";
        assert!(std::env::var_os("MSEC_REQUIRE_TOOLS").is_none(), "{why}: {probe:?}");
        eprintln!("skipped: {why}");
        return None;
    }
    let case = Case { root: dir.path().join("root"), dir };
    case.make_key("key", kind);
    fs::create_dir_all(case.root.join("usr/bin")).unwrap();
    let bytes: Vec<u8> = (0..600_000_u32).map(|at| (at % 251) as u8).collect();
    for (name, size, mode) in
        [("empty", 0, 0o644), ("usr/bin/small", 100, 0o755), ("usr/bin/large", 600_000, 0o4755)]
    {
        let path = case.root.join(name);
        fs::write(&path, &bytes[..size]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let small = case.root.join("usr/bin/small");
    chown(&small, Some(12), Some(34)).unwrap();
    set(&small, "security.capability", &CAPABILITY);
    Some(case)
}

impl Case {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A key, and its certificate in DER with `hash` as SubjectKeyIdentifier.
    fn make_key(&self, name: &str, kind: [&str; 4]) {
        let (key, certificate) = (self.at(name), self.at(&format!("{name}.der")));
        done(Command::new("openssl").arg("genpkey").args(kind).arg("-out").arg(&key));
        let mut request = Command::new("openssl");
        request.args(["req", "-new", "-x509", "-subj", "/CN=ima", "-outform", "DER", "-key"]);
        done(request.arg(&key).arg("-out").arg(certificate));
    }

    fn files(&self) -> [PathBuf; 3] {
        ["empty", "usr/bin/large", "usr/bin/small"].map(|name| self.root.join(name))
    }

    fn ours(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ima-policy"));
        command.arg("sign").arg(&self.root).arg("--key").arg(self.at("key")).args(args);
        command
    }

    /// Files signed, and left alone.
    fn signed(&self, args: &[&str]) -> (u64, u64) {
        let out = done(self.ours(args).args(["--format", "json"]));
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(json["failed"].as_array().unwrap().len(), 0);
        (json["signed"].as_u64().unwrap(), json["kept"].as_u64().unwrap())
    }

    /// Whether evmctl says that a file's `security.ima` and `security.evm` hold.
    fn evmctl_verifies(&self, file: &Path) -> (bool, bool) {
        let key = self.at("key.der");
        let says = |what: &str| {
            let mut evmctl = evmctl(&[what, "--key"]);
            evmctl.arg(&key).arg(file).output().unwrap().status.success()
        };
        (says("ima_verify"), says("verify"))
    }

    fn keyring(&self) -> Keyring {
        let mut keyring = Keyring::new();
        keyring.add("key.der", &fs::read(self.at("key.der")).unwrap()).unwrap();
        keyring
    }
}

/// Portable signatures do not have an inode's generation, but evmctl asks for it unless it is
/// told, and not every file system knows.
fn evmctl(args: &[&str]) -> Command {
    let mut command = Command::new("evmctl");
    command.args(["--generation", "0"]).args(args);
    command
}

fn done(command: &mut Command) -> Output {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

/// What a failing run says.
fn refused(command: &mut Command) -> String {
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{command:?}: {said}");
    said
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 4096];
    match rustix::fs::lgetxattr(path, name, &mut buffer) {
        Ok(size) => Some(buffer[..size].to_vec()),
        Err(Errno::NODATA) => None,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

const HASHES: [&str; 3] = ["sha256", "sha384", "sha512"];

fn evmctl_verifies_ours(kind: [&str; 4]) {
    let Some(case) = case(kind) else { return };
    for hash in HASHES {
        // Another hash than the one that is there: all are signed anew.
        assert_eq!(case.signed(&["--evm", "--hash", hash]), (3, 0), "{hash}");
        assert_eq!(case.signed(&["--evm", "--hash", hash]), (0, 3), "{hash}");
        for file in case.files() {
            assert_eq!(case.evmctl_verifies(&file), (true, true), "{hash} {}", file.display());
            let signature = Signature::parse(&get(&file, IMA).unwrap()).unwrap();
            assert_eq!((signature.kind, signature.version), (Kind::File, Version::V2));
            assert_eq!(signature.algorithm.name(), hash);
        }
    }
}

fn we_verify_evmctls(kind: [&str; 4]) {
    let Some(case) = case(kind) else { return };
    let keyring = case.keyring();
    for hash in HASHES {
        for file in case.files() {
            let mut evmctl = evmctl(&["sign", "--imasig", "--portable", "-a", hash, "--key"]);
            done(evmctl.arg(case.at("key")).arg(&file));
            let digest = done(Command::new(format!("{hash}sum")).arg(&file)).stdout;
            let digest = String::from_utf8(digest).unwrap();
            let digest = hex::decode(digest.split(' ').next().unwrap()).unwrap();
            let digest = Digest::new(hash.parse().unwrap(), &digest).unwrap();
            let signature = get(&file, IMA).unwrap();
            let verdict = keyring.verify(Kind::File, &signature, &digest);
            assert!(matches!(verdict, Verdict::Good(_)), "{hash} {verdict:?}");
        }
        assert_eq!(case.signed(&["--evm", "--hash", hash]), (0, 3), "{hash}");
        let other = if hash == "sha256" { "sha384" } else { "sha256" };
        assert_eq!(case.signed(&["--evm", "--hash", other, "--dry-run"]), (3, 0), "premise");
    }
}

#[test]
fn evmctl_verifies_our_rsa_signatures() {
    evmctl_verifies_ours(RSA);
}

#[test]
fn evmctl_verifies_our_p256_signatures() {
    evmctl_verifies_ours(P256);
}

#[test]
fn evmctl_verifies_our_p384_signatures() {
    evmctl_verifies_ours(P384);
}

#[test]
fn we_verify_rsa_signatures_of_evmctl() {
    we_verify_evmctls(RSA);
}

#[test]
fn we_verify_p256_signatures_of_evmctl() {
    we_verify_evmctls(P256);
}

#[test]
fn we_verify_p384_signatures_of_evmctl() {
    we_verify_evmctls(P384);
}

#[test]
fn rsa_signatures_are_evmctls_byte_for_byte() {
    let Some(case) = case(RSA) else { return };
    case.signed(&["--evm"]);
    for file in case.files() {
        let ours = (get(&file, IMA), get(&file, EVM));
        let mut evmctl = evmctl(&["sign", "--imasig", "--portable", "--key"]);
        done(evmctl.arg(case.at("key")).arg(&file));
        assert_eq!((get(&file, IMA), get(&file, EVM)), ours);
    }
}

/// What `evmctl sign_hash --veritysig` says of a file.
fn verity_signature(case: &Case, hash: &str, file: &Path) -> (Digest, Vec<u8>) {
    let mut fsverity = Command::new("fsverity");
    let digest = done(fsverity.args(["digest", "--hash-alg", hash]).arg(file)).stdout;
    let text = String::from_utf8(digest.clone()).unwrap();
    let value = text.split([':', ' ']).nth(1).unwrap();
    let value = Digest::new(hash.parse().unwrap(), &hex::decode(value).unwrap()).unwrap();
    let mut evmctl = evmctl(&["sign_hash", "--veritysig", "-a", hash, "--key"]);
    let mut child =
        evmctl.arg(case.at("key")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&digest).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    let line = String::from_utf8(out.stdout).unwrap();
    (value, hex::decode(line.split_whitespace().last().unwrap()).unwrap())
}

#[test]
fn version_3_is_evmctls_over_the_fs_verity_digest() {
    for kind in [RSA, P256] {
        let Some(case) = case(kind) else { return };
        let keyring = case.keyring();
        for hash in ["sha256", "sha512"] {
            let args = ["--version", "3", "--hash", hash];
            assert_eq!(case.signed(&args), (3, 0));
            assert_eq!(case.signed(&args), (0, 3));
            for file in case.files() {
                let ours = get(&file, IMA).unwrap();
                let (digest, theirs) = verity_signature(&case, hash, &file);
                for signature in [&ours, &theirs] {
                    let verdict = keyring.verify(Kind::Verity, signature, &digest);
                    assert!(matches!(verdict, Verdict::Good(_)), "{verdict:?}");
                }
                assert_eq!(ours == theirs, kind == RSA);
                // Theirs is left alone, ECDSA's as well.
                set(&file, IMA, &theirs);
            }
            assert_eq!(case.signed(&args), (0, 3));
        }
        assert!(
            refused(&mut case.ours(&["--version", "3", "--hash", "sha384"])).contains("sha384")
        );
    }
}

/// Something that is done to a file after it was signed.
type Tamper = fn(&Path);

#[test]
fn what_was_changed_is_refused_and_signed_again() {
    let Some(case) = case(P256) else { return };
    let file = case.root.join("usr/bin/small");
    let changes: [(&str, (bool, bool), Tamper); 10] = [
        ("nothing", (true, true), |_| {}),
        ("content", (false, true), |file| {
            let mut bytes = fs::read(file).unwrap();
            bytes[50] ^= 1;
            fs::write(file, bytes).unwrap();
            // Writing takes the capability.
            set(file, "security.capability", &CAPABILITY);
        }),
        ("mode", (true, false), |file| {
            fs::set_permissions(file, fs::Permissions::from_mode(0o4755)).unwrap();
        }),
        ("owner", (true, false), |file| {
            chown(file, Some(0), None).unwrap();
            set(file, "security.capability", &CAPABILITY);
        }),
        ("group", (true, false), |file| {
            chown(file, None, Some(0)).unwrap();
            set(file, "security.capability", &CAPABILITY);
        }),
        ("capability", (true, false), |file| {
            let mut other = CAPABILITY;
            other[4] ^= 1;
            set(file, "security.capability", &other);
        }),
        ("no capability", (true, false), |file| {
            rustix::fs::lremovexattr(file, "security.capability").unwrap();
        }),
        ("the hash in the header", (false, false), |file| {
            let mut signature = get(file, IMA).unwrap();
            signature[2] = 6;
            set(file, IMA, &signature);
        }),
        ("the key in the header", (false, false), |file| {
            let mut signature = get(file, IMA).unwrap();
            signature[3] ^= 1;
            set(file, IMA, &signature);
        }),
        ("another file's signature", (false, false), |file| {
            let other = file.with_file_name("large");
            set(file, IMA, &get(&other, IMA).unwrap());
        }),
    ];
    for (what, verdict, change) in changes {
        case.signed(&["--evm"]);
        assert_eq!(case.evmctl_verifies(&file), (true, true), "premise: {what}");
        assert_eq!(case.signed(&["--evm", "--dry-run"]), (0, 3), "premise: {what}");
        change(&file);
        assert_eq!(case.evmctl_verifies(&file), verdict, "{what}");
        let is_changed = u64::from(verdict != (true, true));
        let want = (is_changed, 3 - is_changed);
        assert_eq!(case.signed(&["--evm", "--dry-run"]), want, "{what}");
        assert_eq!(case.evmctl_verifies(&file), verdict, "a dry run sets nothing: {what}");
    }
}

#[test]
fn a_run_that_is_killed_goes_on_where_it_stopped() {
    let Some(case) = case(["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"]) else {
        return;
    };
    let files: Vec<PathBuf> = (0..400).map(|at| case.root.join(format!("f{at}"))).collect();
    for (at, file) in files.iter().enumerate() {
        fs::write(file, format!("file {at}")).unwrap();
    }
    let all = 400 + 3;
    let whole = || files.iter().filter(|file| get(file, EVM).is_some()).count();
    let mut child = case.ours(&["--evm", "--jobs", "1"]).stdout(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while whole() < 20 {
        assert!(Instant::now() < deadline && child.try_wait().unwrap().is_none());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let cut = whole() as u64;
    assert!(cut < all - 50, "premise: the run was cut, {cut} files are signed");
    // As if it had been cut between the two attributes of a file.
    let half = files.iter().find(|file| get(file, EVM).is_some()).unwrap();
    rustix::fs::lremovexattr(half, EVM).unwrap();
    let before = get(half, IMA);

    let (signed, kept) = case.signed(&["--evm"]);
    assert_eq!(signed + kept, all);
    // The three largest may have been among those that were signed.
    assert!((cut - 1..=cut + 2).contains(&kept), "{kept} kept, {cut} signed before");
    assert_eq!(get(half, IMA), before, "what holds is not signed again");
    assert_eq!(case.signed(&["--evm"]), (0, all));
    for file in [half, &files[0], &files[399]] {
        assert_eq!(case.evmctl_verifies(file), (true, true), "{}", file.display());
    }
}

/// The running kernel's own judgement, in a keyring of a session that ends with it.
#[test]
fn the_kernel_takes_our_rsa_signatures() {
    let Some(case) = case(RSA) else { return };
    case.signed(&[]);
    let [_, large, _] = case.files();
    let signature = Signature::parse(&get(&large, IMA).unwrap()).unwrap();
    fs::write(case.at("signature"), &signature.bytes).unwrap();
    let digest = Algorithm::Sha256.hash(&[&fs::read(&large).unwrap()]).unwrap();
    fs::write(case.at("digest"), digest.as_bytes()).unwrap();
    fs::write(case.at("other"), [7; 32]).unwrap();
    // The identifier has to be one by which the kernel finds the key; 42: it has no such keys.
    let script = "
        key=$(keyctl padd asymmetric '' @s <key.der) || exit 42
        keyctl setperm $key 0x3f3f0000
        keyctl search @s asymmetric id:$1 >/dev/null
        keyctl pkey_verify $key 0 digest signature enc=pkcs1 hash=sha256
        ! keyctl pkey_verify $key 0 other signature enc=pkcs1 hash=sha256 2>refusal
        grep -q rejected refusal";
    let mut session = Command::new("keyctl");
    session.args(["session", "-", "sh", "-euc", script, "sh", &signature.key.to_string()]);
    match session.current_dir(case.dir.path()).output() {
        Ok(out) if out.status.code() == Some(42) => {
            eprintln!("skipped: this kernel has no asymmetric keys");
        }
        Ok(out) => assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr)),
        Err(error) => {
            assert!(std::env::var_os("MSEC_REQUIRE_TOOLS").is_none(), "keyctl: {error}");
            eprintln!("skipped: keyctl is needed");
        }
    }
}

#[test]
fn lists_of_files_are_signed_alone() {
    let Some(case) = case(P256) else { return };
    symlink("usr/bin", case.root.join("bin")).unwrap();
    fs::hard_link(case.root.join("empty"), case.root.join("other-name")).unwrap();
    let [empty, large, small] = case.files();
    assert_eq!(case.signed(&["--only", "/bin/small"]), (1, 0));
    assert_eq!((get(&large, IMA), get(&empty, IMA)), (None, None));
    assert!(get(&small, IMA).is_some() && get(&small, EVM).is_none());
    let list = case.at("list");
    fs::write(&list, "/usr/bin\n").unwrap();
    assert_eq!(case.signed(&["--files-from", list.to_str().unwrap()]), (1, 1));
    assert_eq!(get(&empty, IMA), None);
    fs::write(&list, "\n").unwrap();
    let said = refused(&mut case.ours(&["--files-from", list.to_str().unwrap()]));
    assert!(said.contains("is empty"), "{said}");
    assert_eq!(case.signed(&[]), (1, 2), "a hard link is no other file");
    let said = refused(&mut case.ours(&["--only", "/usr/bin/none", "/usr/bin/small"]));
    assert!(said.contains("/usr/bin/none: cannot be read"), "{said}");
    let args = ["--only", "/usr/bin/none", "/usr/bin/small", "--format", "json"];
    let out = case.ours(&args).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((&json["kept"], &json["failed"][0]["path"]), (&1.into(), &"/usr/bin/none".into()));
    assert_eq!(out.status.code(), Some(2));
}

#[test]
fn the_certificate_names_the_key() {
    let Some(case) = case(P256) else { return };
    let certificate = case.at("named.der");
    let mut request = Command::new("openssl");
    request.args(["req", "-new", "-x509", "-subj", "/CN=ima", "-outform", "DER", "-addext"]);
    request.args(["subjectKeyIdentifier=00112233deadbeef", "-key"]).arg(case.at("key"));
    done(request.arg("-out").arg(&certificate));
    let named = ["--certificate", certificate.to_str().unwrap()];
    assert_eq!(case.signed(&[]), (3, 0));
    assert_eq!(case.signed(&named), (3, 0), "by another name it is another signature");
    assert_eq!(case.signed(&named), (0, 3));
    let [file, ..] = case.files();
    let ours = get(&file, IMA).unwrap();
    assert_eq!(Signature::parse(&ours).unwrap().key.to_string(), "deadbeef");
    let mut evmctl = evmctl(&["ima_sign", "--keyid-from-cert"]);
    evmctl.arg(&certificate);
    done(evmctl.arg("--key").arg(case.at("key")).arg(&file));
    assert_eq!(get(&file, IMA).unwrap()[..7], ours[..7]);
    assert_eq!(case.signed(&named), (0, 3), "theirs is as good");

    case.make_key("other", P256);
    let other = case.at("other.der");
    let said = refused(&mut case.ours(&["--certificate", other.to_str().unwrap()]));
    assert!(said.contains("not the certificate of this key"), "{said}");
}

#[test]
fn bad_input_is_named_and_nothing_signed() {
    let Some(case) = case(P256) else { return };
    let signed = || case.files().iter().filter(|file| get(file, IMA).is_some()).count();
    let sign_with = |key: &Path, root: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ima-policy"));
        command.arg("sign").arg(root).arg("--key").arg(key);
        command
    };
    // Keys.
    let encrypted = case.at("encrypted");
    let mut openssl = Command::new("openssl");
    openssl.args(["pkey", "-aes256", "-passout", "pass:x", "-in"]).arg(case.at("key"));
    done(openssl.arg("-out").arg(&encrypted));
    let small = case.at("small");
    let bits = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024", "-out"];
    done(Command::new("openssl").args(bits).arg(&small));
    for (key, want) in [
        (&encrypted, "encrypted"),
        (&small, "RSA (1024 bits)"),
        (&case.at("key.der"), "no private key"),
        (&case.at("none"), "cannot read"),
    ] {
        let said = refused(&mut sign_with(key, &case.root));
        assert!(said.contains(want), "{said}");
    }
    // Roots.
    let said = refused(&mut sign_with(&case.at("key"), Path::new("/proc/self/net")));
    assert!(said.contains("no extended attributes"), "{said}");
    let said = refused(&mut sign_with(&case.at("key"), &case.at("none")));
    assert!(said.contains("cannot open the root"), "{said}");
    assert_eq!(signed(), 0);
    // A file that cannot be read, for somebody who may not.
    let [empty, ..] = case.files();
    fs::set_permissions(&empty, fs::Permissions::from_mode(0o600)).unwrap();
    for dir in [case.dir.path(), &case.root] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(case.at("key"), fs::Permissions::from_mode(0o644)).unwrap();
    let program = case.at("ima-policy");
    fs::copy(env!("CARGO_BIN_EXE_ima-policy"), &program).unwrap();
    let said = |dry_run: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("sign").arg(&case.root).arg("--key").arg(case.at("key")).args(dry_run);
        refused(command.uid(65534).gid(65534))
    };
    let dry = said(&["--dry-run"]);
    assert!(dry.contains("/empty: cannot be read: Permission denied"), "{dry}");
    assert!(dry.contains("not signed: 1;") && !dry.contains("small"), "{dry}");
    let wet = said(&[]);
    assert!(wet.contains("/usr/bin/small: security.ima cannot be set"), "{wet}");
    assert!(wet.contains("CAP_SYS_ADMIN") && wet.contains("not signed: 3;"), "{wet}");
    assert_eq!(signed(), 0);
    assert_eq!(case.signed(&[]), (3, 0), "premise: all the rest is in order");
}

#[test]
fn a_signature_of_metadata_is_not_made_stale() {
    let Some(case) = case(P256) else { return };
    let [empty, large, _] = case.files();
    case.signed(&["--evm"]);
    assert_eq!(case.signed(&[]), (0, 3), "what holds is left alone");
    fs::write(&large, "other").unwrap();
    let said = refused(&mut case.ours(&[]));
    assert!(said.contains("/usr/bin/large: has security.evm"), "{said}");
    assert!(!case.evmctl_verifies(&large).0, "it is as it was");
    assert_eq!(case.evmctl_verifies(&empty), (true, true));
    assert_eq!(case.signed(&["--evm"]), (1, 2));
}

#[test]
fn a_file_that_changes_meanwhile_is_told() {
    let Some(case) = case(P256) else { return };
    let [_, large, _] = case.files();
    let key = SigningKey::from_pem("key", &fs::read(case.at("key")).unwrap()).unwrap();
    let root = Root::open(&case.root).unwrap();
    let options = Options {
        hash: Algorithm::Sha256,
        version: Version::V2,
        evm: true,
        jobs: None,
        dry_run: false,
    };
    let only = [PathBuf::from("/usr/bin/large")];
    let run = |progress: &(dyn Fn(u64) + Sync)| {
        sign(&root, Plan::of(&root, &only), &key, options, progress).unwrap()
    };
    let is_first = AtomicBool::new(true);
    let outcome = run(&|_| {
        if is_first.swap(false, Ordering::SeqCst) {
            let mut file = fs::OpenOptions::new().append(true).open(&large).unwrap();
            file.write_all(b"more").unwrap();
        }
    });
    assert_eq!((outcome.signed, outcome.failed.len()), (0, 1));
    assert!(matches!(outcome.failed[0].cause, Cause::Changed), "{:?}", outcome.failed);
    assert_eq!((get(&large, IMA), get(&large, EVM)), (None, None));
    let read = std::sync::atomic::AtomicU64::new(0);
    let outcome = run(&|bytes| {
        read.fetch_add(bytes, Ordering::SeqCst);
    });
    assert_eq!((outcome.signed, outcome.failed.len()), (1, 0));
    assert_eq!((read.into_inner(), outcome.bytes), (600_004, 600_004));
    assert_eq!(case.evmctl_verifies(&large), (true, true));
}
