//! Keys in a PKCS#11 token, here SoftHSM2's: they sign what the same keys in files sign.
//! This runs in the build root.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests may fail like tests"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image_builder::artifacts::KeyDir;
use image_builder::cache::Cache;
use image_builder::component::plan::{Context, Plan};
use image_builder::component::{self, Component};
use image_builder::image::arm_image::ArmImage;
use image_builder::image::fit::{self, Contents};
use image_builder::keys::{self, Role};
use image_builder::recipe::Target;
use image_builder::sources::newer::{self, WhenGone};
use image_builder::sources::store::Store;
use pcr_measure::Algorithm;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// Where the test that runs inside of the other one finds its files.
const INSIDE: &str = "MSEC_TOKEN_TEST";

/// The roles of this test, with the name of their key in the token.
const ROLES: [Role; 3] = [Role::Fit, Role::Policy, Role::Sums];

fn run(dir: &Path, program: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(args).env("SOFTHSM2_CONF", dir.join("softhsm2.conf"));
    command.output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn good(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{error}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

fn builder(dir: &Path, keys: &str, args: &[&str]) -> Output {
    let keys = dir.join(keys);
    let args = [&["--signing-key", keys.to_str().unwrap(), "keys"], args].concat();
    run(dir, env!("CARGO_BIN_EXE_image-builder"), &args)
}

fn uri(dir: &Path, object: &str) -> String {
    let pin = dir.join("pin");
    format!("pkcs11:token=vendor;object={object};type=private?pin-source=file:{}", pin.display())
}

#[test]
fn a_token_signs_what_the_same_key_in_a_file_signs() {
    let provider = Path::new("/usr/lib/x86_64-linux-gnu/ossl-modules/pkcs11.so");
    if !Path::new(MODULE).is_file() || !provider.is_file() {
        let why = "softhsm2 or pkcs11-provider is not installed";
        assert!(std::env::var_os("MSEC_REQUIRE_TOOLS").is_none(), "{why}");
        eprintln!("skipped: {why}");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    fs::create_dir(dir.join("tokens")).unwrap();
    let conf = format!("directories.tokendir = {}\n", dir.join("tokens").display());
    fs::write(dir.join("softhsm2.conf"), conf).unwrap();
    fs::write(dir.join("pin"), "1234").unwrap();
    let token =
        ["--init-token", "--free", "--label", "vendor", "--pin", "1234", "--so-pin", "5678"];
    good(run(dir, "softhsm2-util", &token));
    let files = KeyDir::new(dir.join("files"));
    for (id, role) in ["01", "02", "03"].into_iter().zip(ROLES) {
        keys::new(&files, role).unwrap();
        let key = files.private(role);
        let import = ["--import", key.to_str().unwrap(), "--token", "vendor", "--pin", "1234"];
        let name = ["--label", role.name(), "--id", id];
        good(run(dir, "softhsm2-util", &[&import[..], &name].concat()));
    }

    // What the token has not is not taken.
    let other = builder(dir, "token", &["use-token", "fit", &uri(dir, "x"), "--module", MODULE]);
    assert_eq!(other.status.code(), Some(2));
    let keys = KeyDir::new(dir.join("token"));
    assert!(!keys.private(Role::Fit).exists() && !keys.certificate().exists());
    for role in ROLES {
        let uri = uri(dir, role.name());
        let args = ["use-token", role.name(), &uri, "--module", MODULE];
        good(builder(dir, "token", &args));
        let again = builder(dir, "token", &args);
        assert_eq!(again.status.code(), Some(2));
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(said.contains("docs/keys.md"), "{said}");
        let public = |keys| good(builder(dir, keys, &["public", role.name()]));
        assert_eq!(public("token"), public("files"));

        let secret = fs::read(files.private(role)).unwrap();
        let secret = openssl::pkey::PKey::private_key_from_pem(&secret).unwrap();
        let secret = secret.rsa().unwrap().p().unwrap().to_vec();
        let file = secret_in(&dir.join("token"), &secret);
        assert_eq!(file, None, "the key lies beside its URI");
        let der = secret_in(&dir.join("files"), &secret);
        assert!(der.is_some(), "premise");
    }
    let list = good(builder(dir, "token", &["list", "--format", "json"]));
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["keys"].as_array().unwrap().len(), 3);
    assert_eq!(list["keys"][0]["place"]["token"], uri(dir, "fit"));

    // SoftHSM finds its token by a variable, which this process has not.
    let inside = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "inside_with_the_token"])
        .env("SOFTHSM2_CONF", dir.join("softhsm2.conf"))
        .env(INSIDE, dir)
        .output()
        .unwrap();
    assert!(good(inside).contains("1 passed"));
}

/// The file of a directory that holds these bytes, in DER or in PEM.
fn secret_in(dir: &Path, secret: &[u8]) -> Option<PathBuf> {
    let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|run| run == secret);
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).find(|path| {
        let bytes = fs::read(path).unwrap();
        let der = openssl::pkey::PKey::private_key_from_pem(&bytes);
        holds(&bytes) || der.is_ok_and(|key| holds(&key.private_key_to_der().unwrap()))
    })
}

/// mkimage of our U-Boot build.
fn mkimage() -> PathBuf {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let cache = Cache::from_env().unwrap();
    let lock = tree.join("image-builder/sources.lock");
    let context = Context {
        lock: newer::in_force(&lock, &Store::new(&cache), WhenGone::from_env()).unwrap(),
        signing_key: component::ensure_signing_key(&cache, None).unwrap(),
        target: Target::default(),
        tools: Context::tools().unwrap(),
        cache,
        tree: tree.to_owned(),
    };
    let plan = Plan::new(&context, &[Component::UBoot]).unwrap();
    let path = plan.dir(Component::UBoot).join("mkimage");
    assert!(path.is_file(), "U-Boot is not built: run `make image` first");
    path
}

#[test]
#[ignore = "runs inside of a_token_signs_what_the_same_key_in_a_file_signs"]
fn inside_with_the_token() {
    let dir = PathBuf::from(std::env::var_os(INSIDE).expect("started by the other test"));
    let (files, token) = (KeyDir::new(dir.join("files")), KeyDir::new(dir.join("token")));
    for role in [Role::Policy, Role::Sums] {
        let sign = |keys| {
            let key = keys::signing(keys, role).unwrap();
            key.sign(Algorithm::Sha256, b"message").unwrap()
        };
        assert_eq!(sign(&files), sign(&token), "{role}");
    }
    let contents = Contents {
        kernel: vec![1; 1000],
        fdt: vec![2; 1000],
        ramdisk: vec![3; 1000],
        command_line: "quiet".to_owned(),
        description: "test".to_owned(),
        places: ArmImage::Armstub.places(),
    };
    let mkimage = mkimage();
    let fit = |keys: &KeyDir| fit::pack(&contents, &mkimage, Some(keys)).unwrap();
    assert!(fit(&files) == fit(&token), "another FIT");

    // The key that the certificate promises, and no other.
    fs::copy(token.private(Role::Policy), token.private(Role::Sums)).unwrap();
    let error = keys::signing(&token, Role::Sums).unwrap();
    let error = error.sign(Algorithm::Sha256, b"message").unwrap_err().to_string();
    assert!(error.contains("another key"), "{error}");

    fs::write(dir.join("pin"), "4321").unwrap();
    let key = keys::signing(&token, Role::Policy).unwrap();
    let error = key.sign(Algorithm::Sha256, b"message").unwrap_err().to_string();
    assert!(error.contains("openssl"), "{error}");
}
