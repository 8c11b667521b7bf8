//! Every policy command, and random sequences of them: the digest that this
//! crate computes is the one of a trial session on an emulated TPM.

// Helpers of tests may panic as tests do; clippy.toml knows `#[test]` functions alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use common::Tpm;
use pcr_measure::policy::{self, NvOperation, OrTree, Policy, Rollback};
use pcr_measure::structures::NvPublic;
use pcr_measure::{Algorithm, Digest, PcrBank, PcrIndex, PcrSelection, Sha256Digest};

const INDEX: &str = "0x1800001";

/// A trial session.
struct Trial<'a> {
    tpm: &'a Tpm,
}

impl<'a> Trial<'a> {
    fn start(tpm: &'a Tpm, hash: Algorithm) -> Self {
        tpm.tool(&format!("tpm2_startauthsession -S session -g {hash}"));
        Self { tpm }
    }

    /// Runs a policy command in the session.
    fn step(&self, command: &str) {
        self.tpm.tool(&format!("{command} -S session -L digest"));
    }

    /// The session's digest after the last step.
    fn digest(&self) -> String {
        hex::encode(std::fs::read(self.tpm.path("digest")).unwrap())
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.tpm.tool("tpm2_flushcontext session");
        }
    }
}

/// Extends some PCRs and gives the values that the TPM then has.
fn extended(tpm: &Tpm, bank: Algorithm) -> PcrBank {
    let event = Algorithm::hash(bank, &[b"event"]).unwrap();
    for pcr in [0, 1, 1, 8, 9] {
        tpm.tool(&format!("tpm2_pcrextend {pcr}:{bank}={event}"));
    }
    let printed = tpm.tool(&format!("tpm2_pcrread {bank}"));
    let mut values = PcrBank::new(bank);
    for line in printed.lines() {
        if let Some((pcr, value)) = line.split_once(": 0x") {
            let pcr = PcrIndex::new(pcr.trim().parse().unwrap()).unwrap();
            values.set(pcr, Digest::from_hex(bank, value).unwrap()).unwrap();
        }
    }
    assert_eq!(values.iter().count(), 24);
    values
}

/// Defines an NV index of eight bytes and gives its Name.
fn nv_index(tpm: &Tpm) -> Vec<u8> {
    tpm.tool(&format!("tpm2_nvdefine {INDEX} -C o -s 8 -a ownerread|ownerwrite|authread"));
    tpm.write("contents", &[0, 0, 0, 0, 0, 0, 0, 7]);
    tpm.tool(&format!("tpm2_nvwrite {INDEX} -C o -i contents"));
    let public = tpm.tool(&format!("tpm2_nvreadpublic {INDEX}"));
    let name = public.lines().find_map(|line| line.trim().strip_prefix("name: ")).unwrap();
    hex::decode(name).unwrap()
}

#[test]
fn extending_equals_the_tpm() {
    let Some(tpm) = Tpm::start() else { return };
    let values = extended(&tpm, Algorithm::Sha256);
    let mut ours: PcrBank =
        PcrIndex::all().map(|pcr| (pcr, Sha256Digest::from([pcr.reset_byte(); 32]))).collect();
    for pcr in [0, 1, 1, 8, 9] {
        ours.extend(PcrIndex::new(pcr).unwrap(), Sha256Digest::of(b"event")).unwrap();
    }
    assert_eq!(ours, values);
}

#[test]
fn policy_pcr_equals_the_tpm() {
    let Some(tpm) = Tpm::start() else { return };
    let sha256 = extended(&tpm, Algorithm::Sha256);
    let sha1 = cfg!(feature = "all-banks").then(|| extended(&tpm, Algorithm::Sha1));
    for list in ["0,1,8,9,15", "0", "23", "0-23", "7,16,17,22"] {
        let selection: PcrSelection = list.parse().unwrap();
        let trial = Trial::start(&tpm, Algorithm::Sha256);
        trial.step(&format!("tpm2_policypcr -l {selection}"));
        let ours = policy::pcr_digest(&selection, &sha256).unwrap();
        assert_eq!(ours.to_string(), trial.digest(), "{list}");
    }
    // Two banks, and sessions of another hash.
    if let Some(sha1) = sha1 {
        let both = [("0-3".parse().unwrap(), &sha256), ("sha1:1,8".parse().unwrap(), &sha1)];
        for hash in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha1] {
            let trial = Trial::start(&tpm, hash);
            trial.step("tpm2_policypcr -l sha256:0,1,2,3+sha1:1,8");
            let ours = Policy::new(hash).pcr(&both).unwrap();
            assert_eq!(ours.digest().to_string(), trial.digest(), "{hash}");
        }
    }
}

#[test]
fn policy_or_equals_the_tpm() {
    let Some(tpm) = Tpm::start() else { return };
    for count in [2usize, 3, 8, 9, 20, 65] {
        let branches: Vec<Digest> =
            (0..count).map(|n| Sha256Digest::of(&[n as u8]).into()).collect();
        let tree = OrTree::new(&branches).unwrap();
        for branch in [0, count / 2, count - 1] {
            let trial = Trial::start(&tpm, Algorithm::Sha256);
            for group in tree.path(branch) {
                let mut files = String::new();
                for (n, digest) in group.iter().enumerate() {
                    tpm.write(&format!("branch{n}"), digest.as_bytes());
                    files.push_str(&format!(",branch{n}"));
                }
                trial.step(&format!("tpm2_policyor -l sha256:{}", &files[1..]));
            }
            assert_eq!(tree.digest().to_string(), trial.digest(), "{branch} of {count}");
        }
    }
}

#[test]
fn random_sequences_of_commands_equal_the_tpm() {
    let Some(tpm) = Tpm::start() else { return };
    let values = extended(&tpm, Algorithm::Sha256);
    let index_name = nv_index(&tpm);
    let seed = 0x5eed_0001_u64;
    let mut random = XorShift(seed);
    for round in 0..12 {
        let hash = [Algorithm::Sha256, Algorithm::Sha384][random.below(2)];
        let trial = Trial::start(&tpm, hash);
        let mut ours = Policy::new(hash);
        for step in 0..=random.below(6) {
            ours = advance(&tpm, &trial, ours, &mut random, &values, &index_name);
            let place = format!("seed {seed:#x}, round {round}, step {step}");
            assert_eq!(ours.digest().to_string(), trial.digest(), "{place}");
        }
    }
}

/// One command, in the TPM and here.
fn advance(
    tpm: &Tpm,
    trial: &Trial<'_>,
    ours: Policy,
    random: &mut XorShift,
    values: &PcrBank,
    index_name: &[u8],
) -> Policy {
    let hash = ours.digest().algorithm();
    match random.below(6) {
        0 => {
            let pcrs =
                (0..=random.below(8)).map(|_| PcrIndex::new(random.below(24) as u32).unwrap());
            let selection = PcrSelection::new(Algorithm::Sha256, pcrs).unwrap();
            trial.step(&format!("tpm2_policypcr -l {selection}"));
            ours.pcr(&[(selection, values)]).unwrap()
        }
        1 => {
            let other = hash.hash(&[&random.next().to_be_bytes()]).unwrap();
            tpm.write("mine", ours.digest().as_bytes());
            tpm.write("other", other.as_bytes());
            trial.step(&format!("tpm2_policyor -l {hash}:mine,other"));
            ours.or(&[ours.digest(), other]).unwrap()
        }
        2 => {
            let key = Algorithm::Sha256.hash(&[&random.next().to_be_bytes()]).unwrap();
            let name = [&[0x00, 0x0b], key.as_bytes()].concat();
            let policy_ref = hex::encode(random.next().to_be_bytes()).into_bytes();
            let policy_ref = &policy_ref[..random.below(16)];
            tpm.write("name", &name);
            tpm.write("approved", ours.digest().as_bytes());
            tpm.write("reference", policy_ref);
            // tpm2-tools refuses an empty file.
            let option = if policy_ref.is_empty() { "" } else { "-q reference" };
            trial.step(&format!("tpm2_policyauthorize -i approved -n name {option}"));
            ours.authorize(&name, policy_ref).unwrap()
        }
        3 => {
            let (operation, word) = NvOperation::ALL[random.below(12)];
            let offset = random.below(8);
            let operand = random.next().to_be_bytes();
            let operand = &operand[offset..];
            tpm.write("operand", operand);
            let place = format!("--offset {offset} -C o");
            trial.step(&format!("tpm2_policynv {INDEX} {word} -i operand {place}"));
            ours.nv(index_name, operand, offset as u16, operation).unwrap()
        }
        4 => {
            trial.step("tpm2_policyauthvalue");
            ours.auth_value().unwrap()
        }
        _ => {
            // NV_Read, NV_Certify, Unseal, PCR_Extend: TPM 2.0 Library 1.59, Part 2, 6.5.2.
            let code = [0x14e, 0x184, 0x15e, 0x182][random.below(4)];
            trial.step(&format!("tpm2_policycommandcode {code:#x}"));
            ours.command_code(code).unwrap()
        }
    }
}

/// Numbers that are the same in every run.
struct XorShift(u64);

impl XorShift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[test]
fn the_name_of_an_index_follows_from_its_public_area() {
    let Some(tpm) = Tpm::start() else { return };
    let name = |index: &str| {
        let public = tpm.tool(&format!("tpm2_nvreadpublic {index}"));
        public.lines().find_map(|line| line.trim().strip_prefix("name: ")).unwrap().to_owned()
    };
    let policy = Sha256Digest::of(b"policy");
    tpm.write("policy", policy.as_bytes());
    tpm.tool("tpm2_nvdefine 0x1800002 -C o -s 65 -a ownerwrite|policyread -L policy");
    // TPMA_NV: OWNERWRITE and POLICYREAD (Part 2, 13.4).
    let public =
        NvPublic { index: 0x0180_0002, attributes: 0x0008_0002, policy: Some(&policy), size: 65 };
    assert_eq!(hex::encode(public.name()), name("0x1800002"));

    // A counter gets its Name, and a value, when it is first counted up.
    let attributes = "nt=counter|ownerwrite|authread|no_da";
    tpm.tool(&format!("tpm2_nvdefine 0x1806d74 -C o -s 8 -a {attributes}"));
    let rollback = Rollback { counter: 0x0180_6d74, version: 1 };
    assert_ne!(hex::encode(rollback.counter_name()), name("0x1806d74"), "premise");
    tpm.tool("tpm2_nvincrement 0x1806d74 -C o");
    assert_eq!(hex::encode(rollback.counter_name()), name("0x1806d74"));
}

#[test]
fn a_rollback_policy_equals_the_tpm() {
    let Some(tpm) = Tpm::start() else { return };
    let attributes = "nt=counter|ownerwrite|authread|no_da";
    tpm.tool(&format!("tpm2_nvdefine 0x1806d74 -C o -s 8 -a {attributes}"));
    tpm.tool("tpm2_nvincrement 0x1806d74 -C o");
    for version in [1, 256, u64::MAX] {
        let rollback = Rollback { counter: 0x0180_6d74, version };
        tpm.write("operand", &rollback.operand());
        let ours = Policy::new(Algorithm::Sha256).rollback(&rollback).unwrap().digest();
        let trial = Trial::start(&tpm, Algorithm::Sha256);
        trial.step("tpm2_policynv 0x1806d74 ule -C 0x1806d74 -i operand");
        assert_eq!(trial.digest(), ours.to_string(), "{version}");
    }
}
