//! A policy that was signed here satisfies PolicyAuthorize of an emulated TPM,
//! with RSA and ECC keys, and the Name of a key is the one that the TPM gives it.

// Helpers of tests may panic as tests do; clippy.toml knows `#[test]` functions alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg(feature = "signature")]

mod common;
#[path = "common/pair.rs"]
mod pair;

use std::process::Command;

use common::Tpm;
use pair::Pair;
use pcr_measure::policy::{Policy, pcr_digest};
use pcr_measure::signed_policy::SignatureFile;
use pcr_measure::{Algorithm, PcrBank, PcrIndex, PcrSelection, Sha256Digest};

const PCRS: [u32; 5] = [0, 1, 8, 9, 15];

/// What the selected PCRs hold in a fresh TPM.
fn zeros() -> PcrBank {
    PCRS.iter().map(|pcr| (PcrIndex::new(*pcr).unwrap(), Sha256Digest::ZERO)).collect()
}

fn selection() -> PcrSelection {
    PcrSelection::sha256(&PCRS).unwrap()
}

/// Runs a tool that may fail; whether it succeeded.
fn succeeds(tpm: &Tpm, line: &str) -> bool {
    let mut words = line.split_whitespace();
    Command::new(words.next().unwrap())
        .args(words)
        .current_dir(tpm.path(""))
        .env("TPM2TOOLS_TCTI", format!("swtpm:path={}", tpm.path("tpm").display()))
        .output()
        .unwrap()
        .status
        .success()
}

/// Loads the public area that we make of a key; the Name that the TPM gives it.
fn load(tpm: &Tpm, pair: &Pair) -> Vec<u8> {
    let area = pair.key.public().to_tpm_public().unwrap();
    let sized = [&(area.len() as u16).to_be_bytes(), area.as_slice()].concat();
    tpm.write("area", &sized);
    tpm.tool("tpm2_loadexternal -C o -u area -c loaded -n name");
    tpm.tool("tpm2_flushcontext -t");
    std::fs::read(tpm.path("name")).unwrap()
}

#[test]
fn the_name_of_a_key_is_the_tpms() {
    let Some(tpm) = Tpm::start() else { return };
    let (rsa, ec) = (Pair::rsa(&tpm.path(""), "rsa"), Pair::ec(&tpm.path(""), "ec"));
    for (pair, kind) in [(&rsa, "rsa"), (&ec, "ecc")] {
        let ours = pair.key.public().tpm_name().unwrap();
        assert_eq!(hex::encode(&ours), hex::encode(load(&tpm, pair)), "{kind}");
        // tpm2-tools makes the same public area of the PEM, if told the attributes.
        let attributes = "-a userwithauth|decrypt|sign";
        let file = pair.stem.with_extension("pem");
        let file = file.display();
        tpm.tool(&format!(
            "tpm2_loadexternal -C o -G {kind} -u {file} {attributes} -c pem -n name"
        ));
        tpm.tool("tpm2_flushcontext -t");
        let theirs = std::fs::read(tpm.path("name")).unwrap();
        assert_eq!(hex::encode(&ours), hex::encode(theirs), "{kind}");
    }
}

#[test]
fn a_signed_policy_satisfies_policy_authorize() {
    let Some(tpm) = Tpm::start() else { return };
    let (rsa, ec) = (Pair::rsa(&tpm.path(""), "rsa"), Pair::ec(&tpm.path(""), "ec"));
    for (pair, scheme) in [(&rsa, "rsassa"), (&ec, "ecdsa")] {
        let name = load(&tpm, pair);
        let mut file = SignatureFile::new();
        file.sign(&pair.key, &selection(), &zeros()).unwrap();
        let entry = file.entries().next().unwrap();
        tpm.write("policy", entry.policy.as_bytes());
        tpm.write("signature", &entry.signature);
        let verify = format!("tpm2_verifysignature -c loaded -g sha256 -f {scheme} -t ticket");
        tpm.tool(&format!("{verify} -m policy -s signature"));
        tpm.tool("tpm2_flushcontext -t");

        // A session that counts, not a trial one: the TPM checks PCRs and ticket.
        tpm.tool("tpm2_startauthsession --policy-session -S session");
        tpm.tool(&format!("tpm2_policypcr -S session -l {}", selection()));
        tpm.tool("tpm2_policyauthorize -S session -i policy -n name -t ticket -L digest");
        let digest = std::fs::read(tpm.path("digest")).unwrap();
        let ours = Policy::new(Algorithm::Sha256).authorize(&name, b"").unwrap();
        assert_eq!(hex::encode(digest), ours.digest().to_string(), "{scheme}");
        tpm.tool("tpm2_flushcontext session");

        // The ticket is for that policy and for no other.
        tpm.tool("tpm2_startauthsession --policy-session -S session");
        tpm.tool("tpm2_policypcr -S session -l sha256:0");
        let authorize = "tpm2_policyauthorize -S session -i policy -n name -t ticket -L digest";
        assert!(!succeeds(&tpm, authorize), "{scheme}");
        tpm.tool("tpm2_flushcontext session");

        // And the TPM refuses the signature for another policy, or changed.
        let other: PcrBank = PcrIndex::all().map(|pcr| (pcr, Sha256Digest::of(b"x"))).collect();
        tpm.write("other", pcr_digest(&selection(), &other).unwrap().as_bytes());
        let mut changed = entry.signature.clone();
        *changed.last_mut().unwrap() ^= 1;
        tpm.write("changed", &changed);
        for (message, signature) in [("other", "signature"), ("policy", "changed")] {
            assert!(!succeeds(&tpm, &format!("{verify} -m {message} -s {signature}")), "{scheme}");
            tpm.tool("tpm2_flushcontext -t");
        }
        assert!(succeeds(&tpm, &format!("{verify} -m policy -s signature")), "{scheme}");
        tpm.tool("tpm2_flushcontext -t");
    }
}

#[test]
fn a_point_with_leading_zeros_has_a_name_that_the_tpm_gives_it() {
    let Some(tpm) = Tpm::start() else { return };
    // One pair in 128 has such a coordinate.
    let short = |pair: &Pair| {
        let area = pair.key.public().to_tpm_public().unwrap();
        area[area.len() - 66] == 0 || area[area.len() - 32] == 0
    };
    let pair = std::iter::repeat_with(|| Pair::ec(&tpm.path(""), "ec")).find(short).unwrap();
    let ours = pair.key.public().tpm_name().unwrap();
    assert_eq!(hex::encode(ours), hex::encode(load(&tpm, &pair)));
}
