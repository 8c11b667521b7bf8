//! What systemd-measure signs is what we sign, byte for byte; what it signed
//! verifies here, and systemd opens a secret by a file of ours.
//!
//! Without systemd's tools the tests say that they are skipped, and fail where
//! `MSEC_REQUIRE_TOOLS` is in the environment.

// Helpers of tests may panic as tests do; clippy.toml knows `#[test]` functions alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg(feature = "signature")]

mod common;
#[path = "common/pair.rs"]
mod pair;

use std::process::{Command, Output};

use common::Tpm;
use pair::Pair;
use pcr_measure::policy::{Policy, Rollback};
use pcr_measure::signed_policy::{SignatureFile, Verdict};
use pcr_measure::{Algorithm, Digest, PcrBank, PcrIndex, PcrSelection, Sha256Digest};
use tempfile::TempDir;

const MEASURE: &str = "/usr/lib/systemd/systemd-measure";
const CREDS: &str = "/usr/bin/systemd-creds";
/// `TPM2_PCR_KERNEL_BOOT` (systemd 257, src/fundamental/tpm2-pcr.h), the one that
/// systemd-measure signs.
const KERNEL_BOOT: u32 = 11;
const PHASES: [&str; 3] = ["enter-initrd", "enter-initrd:leave-initrd", "enter-initrd:x:y"];

/// Whether there is this tool of systemd's, and new enough: file, options and
/// words of its log are those of 257.
fn is_there(tool: &str) -> bool {
    let output = Command::new(tool).arg("--version").output();
    let text = output.map(|o| String::from_utf8(o.stdout).unwrap()).unwrap_or_default();
    let version = text.split_whitespace().nth(1).and_then(|word| word.parse::<u32>().ok());
    let there = version >= Some(257);
    let why = format!("{tool} of systemd 257 or newer is needed; found: {version:?}");
    assert!(there || std::env::var_os("MSEC_REQUIRE_TOOLS").is_none(), "{why}");
    if !there {
        eprintln!("skipped: {why}");
    }
    there
}

/// Sections of a kernel image, and systemd-measure over them.
struct Measure {
    dir: TempDir,
}

impl Measure {
    fn start() -> Option<Self> {
        if !is_there(MEASURE) {
            return None;
        }
        // It computes policies with libraries that come with tpm2-tools.
        drop(Tpm::start()?);
        let dir = TempDir::new().unwrap();
        for section in ["linux", "cmdline", "initrd"] {
            std::fs::write(dir.path().join(section), format!("the {section} of a test")).unwrap();
        }
        Some(Self { dir })
    }

    /// Runs a command of it over the sections, for the bank and these phases.
    fn run(&self, verb: &str, bank: Algorithm, phases: &[&str], more: &[String]) -> String {
        let mut command = Command::new(MEASURE);
        command.arg(verb).args(["--linux=linux", "--cmdline=cmdline", "--initrd=initrd"]);
        command.arg(format!("--bank={bank}")).args(more).current_dir(self.dir.path());
        command.args(phases.iter().map(|phase| format!("--phase={phase}")));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The file that it signs.
    fn sign(&self, pair: &Pair, bank: Algorithm, phases: &[&str], more: &[String]) -> String {
        let keys = [
            format!("--private-key={}", pair.stem.with_extension("key").display()),
            format!("--public-key={}", pair.stem.with_extension("pem").display()),
        ];
        self.run("sign", bank, phases, &[&keys, more].concat())
    }

    /// The value of PCR 11 after this phase.
    fn value(&self, bank: Algorithm, phase: &str) -> PcrBank {
        let json = self.run("calculate", bank, &[phase], &["--json=short".to_owned()]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let hash = json[bank.name()][0]["hash"].as_str().unwrap();
        let mut values = PcrBank::new(bank);
        let value = Digest::from_hex(bank, hash).unwrap();
        values.set(PcrIndex::new(KERNEL_BOOT).unwrap(), value).unwrap();
        values
    }
}

fn pcr_11(bank: Algorithm) -> PcrSelection {
    PcrSelection::new(bank, [PcrIndex::new(KERNEL_BOOT).unwrap()]).unwrap()
}

fn read(text: &str) -> SignatureFile {
    SignatureFile::from_json(text.as_bytes()).unwrap()
}

#[test]
fn a_file_of_rsa_signatures_is_systemds_byte_for_byte() {
    let Some(measure) = Measure::start() else { return };
    let pair = Pair::rsa(measure.dir.path(), "rsa");
    let bank = Algorithm::Sha256;
    let theirs = measure.sign(&pair, bank, &PHASES, &[]);
    let mut ours = SignatureFile::new();
    for phase in PHASES {
        ours.sign(&pair.key, &pcr_11(bank), &measure.value(bank, phase)).unwrap();
    }
    assert_eq!(ours.entries().count(), PHASES.len());
    assert_eq!(ours.to_json().unwrap(), theirs);
}

#[test]
fn a_file_of_systemd_verifies_here_and_a_changed_one_does_not() {
    let Some(measure) = Measure::start() else { return };
    let dir = measure.dir.path();
    let (rsa, ec, other) = (Pair::rsa(dir, "rsa"), Pair::ec(dir, "ec"), Pair::rsa(dir, "other"));
    let bank = Algorithm::Sha256;
    let value = |phase| measure.value(bank, phase);
    for pair in [&rsa, &ec] {
        let text = measure.sign(pair, bank, &PHASES[..2], &[]);
        let verify = |text: &str, pair: &Pair, phase| {
            read(text).verify(pair.key.public(), &pcr_11(bank), &value(phase)).unwrap()
        };
        for phase in &PHASES[..2] {
            assert_eq!(verify(&text, pair, phase), Verdict::Signed);
        }
        let of_key = |text: &str| {
            let file = read(text);
            let checked = file.of_key(pair.key.public()).unwrap();
            checked.iter().map(|(_, valid)| *valid).collect::<Vec<_>>()
        };
        assert_eq!(of_key(&text), [true, true]);

        assert_eq!(verify(&text, pair, PHASES[2]), Verdict::OtherPolicy);
        assert_eq!(verify(&text, &other, PHASES[0]), Verdict::OtherKey);
        let pcrs = text.replace("[11]", "[12]");
        assert_eq!(verify(&pcrs, pair, PHASES[0]), Verdict::OtherPcrs);
        let entries = read(&text);
        let policy: Vec<_> = entries.entries().map(|entry| entry.policy.to_string()).collect();
        // The second phase's signature under the first one's policy.
        let pol = text.replacen(&policy[0], &"00".repeat(32), 1).replace(&policy[1], &policy[0]);
        assert_eq!(verify(&pol, pair, PHASES[0]), Verdict::BadSignature);
        assert_eq!(of_key(&pol), [false, false]);
    }
}

#[test]
fn systemd_appends_to_our_file_and_we_to_its() {
    let Some(measure) = Measure::start() else { return };
    let dir = measure.dir.path();
    let pair = Pair::rsa(dir, "rsa");
    let bank = Algorithm::Sha256;
    let mut ours = SignatureFile::new();
    ours.sign(&pair.key, &pcr_11(bank), &measure.value(bank, PHASES[0])).unwrap();
    let file = dir.join("ours.json");
    std::fs::write(&file, ours.to_json().unwrap()).unwrap();
    // It signs the first phase again, and finds that the entry is there.
    let append = [format!("--append={}", file.display())];
    let theirs = measure.sign(&pair, bank, &PHASES[..2], &append);
    let mut both = read(&theirs);
    assert_eq!(both.entries().count(), 2);
    assert_eq!(both.entries().next(), ours.entries().next());
    both.sign(&pair.key, &pcr_11(bank), &measure.value(bank, PHASES[1])).unwrap();
    assert_eq!(both.to_json().unwrap(), theirs);
}

#[test]
fn policies_over_other_banks_are_equal_and_their_signatures_are_no_tpms() {
    let Some(measure) = Measure::start() else { return };
    let pair = Pair::rsa(measure.dir.path(), "rsa");
    for bank in [Algorithm::Sha384, Algorithm::Sha512] {
        let file = read(&measure.sign(&pair, bank, &PHASES[..1], &[]));
        let mut ours = SignatureFile::new();
        ours.sign(&pair.key, &pcr_11(bank), &measure.value(bank, PHASES[0])).unwrap();
        let policies = [&file, &ours].map(|file| file.entries().next().unwrap().policy);
        assert_eq!(policies[0], policies[1], "{bank}");
        // systemd-measure hashes with the bank's hash, and systemd's own unlock with SHA-256
        // whatever the bank: it never opens by these.
        let value = measure.value(bank, PHASES[0]);
        let verify =
            |file: &SignatureFile| file.verify(pair.key.public(), &pcr_11(bank), &value).unwrap();
        assert_eq!(verify(&file), Verdict::BadSignature, "{bank}");
        assert_eq!(verify(&ours), Verdict::Signed, "{bank}");
    }
}

/// A secret of systemd's, sealed in an emulated TPM to a key's signature over PCRs.
struct Sealed {
    tpm: Tpm,
}

impl Sealed {
    fn creds(&self, arguments: &str) -> Output {
        let device = format!("--tpm2-device=swtpm:path={}", self.tpm.path("tpm").display());
        let mut command = Command::new(CREDS);
        command.args(arguments.split_whitespace()).arg(device).current_dir(self.tpm.path(""));
        command.env("SYSTEMD_LOG_LEVEL", "debug");
        command.output().unwrap()
    }

    /// Seals the secret to signatures of this key over some PCRs (as 0+8); what
    /// systemd says about it.
    fn seal(&self, pair: &Pair, pcrs: &str) -> String {
        self.tpm.write("secret", b"secret");
        let public = pair.stem.with_extension("pem");
        let to = format!("--tpm2-public-key={} --tpm2-public-key-pcrs={pcrs}", public.display());
        let kind = "--with-key=tpm2-with-public-key --tpm2-pcrs=";
        let output = self.creds(&format!("encrypt --name=x {kind} {to} secret sealed"));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Whether systemd opens the secret with this file of signed policies.
    fn opens(&self, file: &SignatureFile) -> bool {
        let path = self.tpm.write("signatures.json", file.to_json().unwrap().as_bytes());
        let signature = format!("--tpm2-signature={}", path.display());
        let output = self.creds(&format!("decrypt --name=x {signature} sealed -"));
        assert!(!output.status.success() || output.stdout == b"secret", "{output:?}");
        output.status.success()
    }
}

#[test]
fn the_name_of_a_key_and_its_policy_are_systemds() {
    if !is_there(CREDS) {
        return;
    }
    let Some(tpm) = Tpm::start() else { return };
    let dir = tpm.path("");
    let sealed = Sealed { tpm };
    // One ECC key in 128 has a coordinate that systemd writes so short that a TPM refuses it.
    let full = |pair: &Pair| {
        let area = pair.key.public().to_tpm_public().unwrap();
        area[area.len() - 66] != 0 && area[area.len() - 32] != 0
    };
    let ec = std::iter::repeat_with(|| Pair::ec(&dir, "ec")).find(full).unwrap();
    for pair in [Pair::rsa(&dir, "rsa"), ec] {
        let name = pair.key.public().tpm_name().unwrap();
        let policy = Policy::new(Algorithm::Sha256).authorize(&name, b"").unwrap();
        let said = sealed.seal(&pair, "11");
        let name = format!("Calculated public key name: {}\n", hex::encode(name));
        assert!(said.contains(&name), "{name}{said}");
        let policy = format!("PolicyAuthorize calculated digest: {}\n", policy.digest());
        assert!(said.contains(&policy), "{policy}{said}");
    }
}

#[test]
fn systemd_opens_a_secret_by_our_file_and_by_no_other() {
    if !is_there(CREDS) {
        return;
    }
    let Some(tpm) = Tpm::start() else { return };
    let (pair, other) = (Pair::rsa(&tpm.path(""), "rsa"), Pair::rsa(&tpm.path(""), "other"));
    let sealed = Sealed { tpm };
    sealed.seal(&pair, "0+8+15");

    let selection = PcrSelection::sha256(&[0, 8, 15]).unwrap();
    let kernel = PcrIndex::new(8).unwrap();
    let mut now: PcrBank = selection.iter().map(|pcr| (pcr, Sha256Digest::ZERO)).collect();
    let mut next = now.clone();
    next.extend(kernel, Sha256Digest::of(b"the next kernel")).unwrap();

    let signed = |pair: &Pair, values: &PcrBank| {
        let mut file = SignatureFile::new();
        file.sign(&pair.key, &selection, values).unwrap();
        file
    };
    assert!(sealed.opens(&signed(&pair, &now)));
    assert!(!sealed.opens(&signed(&pair, &next)));
    assert!(!sealed.opens(&signed(&other, &now)));
    assert!(!sealed.opens(&SignatureFile::new()));

    // Another kernel boots: nothing is sealed anew, the file says both.
    let event = Sha256Digest::of(b"the next kernel");
    sealed.tpm.tool(&format!("tpm2_pcrextend 8:sha256={event}"));
    assert!(!sealed.opens(&signed(&pair, &now)));
    let mut both = signed(&pair, &now);
    both.sign(&pair.key, &selection, &next).unwrap();
    assert!(sealed.opens(&both));
    now = next;
    assert!(sealed.opens(&signed(&pair, &now)));

    // An entry with a counter is none of systemd's, and is not in its way.
    let rollback = Rollback { counter: 0x0180_6d74, version: 1 };
    let mut ours = SignatureFile::new();
    ours.sign_with(&pair.key, &selection, &now, Some(&rollback)).unwrap();
    assert!(!sealed.opens(&ours));
    ours.sign(&pair.key, &selection, &now).unwrap();
    assert!(ours.entries().next().unwrap().rollback.is_some());
    assert!(sealed.opens(&ours));
}
