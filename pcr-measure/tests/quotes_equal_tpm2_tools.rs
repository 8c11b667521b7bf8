//! Quotes that an emulated TPM makes are accepted here as by tpm2_checkquote;
//! forged ones, and such as answer another question, are refused in their step.

// Helpers of tests may panic as tests do; clippy.toml knows `#[test]` functions alone.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
#![cfg(feature = "cli")]

mod common;

use std::process::Command;

use common::Tpm;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::sign::Signer;
use pcr_measure::quote::clock::{ClockChange, compare};
use pcr_measure::quote::{
    AttestationKey, Expected, QuoteError, Step, VerifiedQuote, concatenated_values, tools_values,
    verify,
};
use pcr_measure::structures::{Attest, ClockInfo};
use pcr_measure::{Algorithm, PcrBank, PcrIndex, PcrSelection};

/// An attestation key in the TPM: its persistent handle, its public area and PEM.
struct Ak {
    handle: String,
    scheme: &'static str,
    hash: &'static str,
    public: Vec<u8>,
    pem: Vec<u8>,
}

/// A quote as tpm2_quote writes it.
struct Quote {
    message: Vec<u8>,
    signature: Vec<u8>,
    values: Vec<u8>,
}

/// A TPM with some measurements, and an EK for the AKs.
fn measured() -> Option<Tpm> {
    let tpm = Tpm::start()?;
    for (pcr, bank) in [(0, "sha256"), (1, "sha256"), (8, "sha256"), (1, "sha384"), (16, "sha384")]
    {
        let digest = bank.parse::<Algorithm>().unwrap().hash(&[b"event"]).unwrap();
        tpm.tool(&format!("tpm2_pcrextend {pcr}:{bank}={digest}"));
    }
    tpm.tool("tpm2_createek -c ek.ctx -G ecc -u ek.pub");
    tpm.tool("tpm2_flushcontext -t");
    Some(tpm)
}

/// Makes a key under the EK and keeps it.
fn ak(tpm: &Tpm, number: u32, kind: &str, scheme: &'static str, hash: &'static str) -> Ak {
    tpm.tool(&format!("tpm2_createak -C ek.ctx -c ak.ctx -G {kind} -s {scheme} -g {hash}"));
    tpm.tool("tpm2_flushcontext -t");
    persistent(tpm, number, scheme, hash)
}

/// Keeps the key of ak.ctx.
fn persistent(tpm: &Tpm, number: u32, scheme: &'static str, hash: &'static str) -> Ak {
    let handle = format!("{:#x}", 0x8101_0010 + number);
    tpm.tool(&format!("tpm2_evictcontrol -C o -c ak.ctx {handle}"));
    tpm.tool("tpm2_flushcontext -t");
    tpm.tool(&format!("tpm2_readpublic -c {handle} -o ak.pub"));
    tpm.tool(&format!("tpm2_readpublic -c {handle} -f pem -o ak.pem"));
    let read = |name| std::fs::read(tpm.path(name)).unwrap();
    Ak { handle, scheme, hash, public: read("ak.pub"), pem: read("ak.pem") }
}

impl Ak {
    fn quote(&self, tpm: &Tpm, pcrs: &str, nonce: &str, form: &str) -> Quote {
        let Self { handle, scheme, hash, .. } = self;
        let nonce = if nonce.is_empty() { String::new() } else { format!("-q {nonce}") };
        tpm.tool(&format!(
            "tpm2_quote -c {handle} -l {pcrs} {nonce} --scheme {scheme} -g {hash} -F {form} -m msg -s sig -o pcrs"
        ));
        let read = |name| std::fs::read(tpm.path(name)).unwrap();
        Quote { message: read("msg"), signature: read("sig"), values: read("pcrs") }
    }

    fn key(&self) -> AttestationKey {
        AttestationKey::parse(&self.public).unwrap()
    }
}

fn selections(pcrs: &str) -> Vec<PcrSelection> {
    pcrs.split('+').map(|text| text.parse().unwrap()).collect()
}

impl Quote {
    fn verify(
        &self,
        key: &AttestationKey,
        pcrs: &str,
        nonce: &str,
        values: &[PcrBank],
    ) -> Result<VerifiedQuote, QuoteError> {
        let nonce = hex::decode(nonce).unwrap();
        let expected = Expected { nonce: &nonce, selections: &selections(pcrs), values };
        verify(&self.message, &self.signature, key, &expected)
    }

    /// Whether tpm2_checkquote takes it.
    fn check(&self, tpm: &Tpm, pem: &[u8], hash: &str, nonce: &str) -> bool {
        tpm.write("check.pem", pem);
        tpm.write("check.msg", &self.message);
        tpm.write("check.sig", &self.signature);
        tpm.write("check.pcrs", &self.values);
        let mut command = Command::new("tpm2_checkquote");
        command.args("-u check.pem -m check.msg -s check.sig -f check.pcrs -g".split(' '));
        command.arg(hash).current_dir(tpm.path(""));
        if !nonce.is_empty() {
            command.args(["-q", nonce]);
        }
        command.output().unwrap().status.success()
    }
}

/// Fails unless the quote was refused in this step.
fn refused(what: &str, got: Result<VerifiedQuote, QuoteError>, step: Step) {
    let error = got.err().unwrap_or_else(|| panic!("{what}: accepted"));
    assert_eq!(error.step(), step, "{what}: {error}");
    assert!(error.is_refusal(), "{what}");
}

#[test]
fn quotes_of_every_scheme_hash_and_selection_are_accepted() {
    let Some(tpm) = measured() else { return };
    let all = "sha256:0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23";
    let both = "sha256:0,1,8,9,15+sha384:0,1,16";
    let keys = [
        ("rsa", "rsassa", "sha256"),
        ("rsa", "rsassa", "sha384"),
        ("rsa", "rsapss", "sha256"),
        ("rsa", "rsapss", "sha384"),
        ("ecc", "ecdsa", "sha256"),
        ("ecc", "ecdsa", "sha384"),
    ];
    for (number, (kind, scheme, hash)) in keys.into_iter().enumerate() {
        let ak = ak(&tpm, number as u32, kind, scheme, hash);
        let pem = AttestationKey::parse(&ak.pem).unwrap();
        let long = "5a".repeat(64);
        for (pcrs, nonce) in [
            ("sha256:0,1,8,9,15", "0102"),
            (both, long.as_str()),
            ("sha384:16+sha256:8+sha512:3", "00"),
            (all, ""),
            ("sha1:0+sha384:1", "ff"),
        ] {
            let place = format!("{scheme} {hash} {pcrs}");
            for form in ["serialized", "values"] {
                let quote = ak.quote(&tpm, pcrs, nonce, form);
                let values = match form {
                    "values" => concatenated_values(&quote.values, &selections(pcrs)).unwrap(),
                    _ => tools_values(&quote.values).unwrap(),
                };
                for key in [&ak.key(), &pem] {
                    let good = quote.verify(key, pcrs, nonce, &values).unwrap();
                    assert_eq!(good.hash().to_string(), hash, "{place}");
                    assert_eq!(good.scheme().to_string().to_lowercase(), scheme, "{place}");
                    assert_eq!(good.values(), values, "{place}");
                }
                // tpm2_checkquote takes `values` only with the selection.
                if form == "serialized" {
                    assert!(quote.check(&tpm, &ak.pem, hash, nonce), "{place}");
                }
            }
        }
    }
}

#[test]
fn the_values_of_a_quote_are_those_that_the_tpm_holds() {
    let Some(tpm) = measured() else { return };
    let ak = ak(&tpm, 0, "ecc", "ecdsa", "sha256");
    let quote = ak.quote(&tpm, "sha256:0,1,8", "01", "serialized");
    let values = tools_values(&quote.values).unwrap();
    let good = quote.verify(&ak.key(), "sha256:0,1,8", "01", &values).unwrap();
    let printed = tpm.tool("tpm2_pcrread sha256:0,1,8").to_lowercase();
    let bank = good.bank(Algorithm::Sha256);
    assert_eq!(bank.iter().count(), 3);
    for (pcr, value) in bank.iter() {
        let number = pcr.to_string();
        assert!(printed.contains(&format!("{number:<2}: 0x{value}")), "{printed}");
    }
}

#[test]
fn quotes_that_answer_another_question_are_refused() {
    let Some(tpm) = measured() else { return };
    let (mine, other) =
        (ak(&tpm, 0, "rsa", "rsassa", "sha256"), ak(&tpm, 1, "rsa", "rsassa", "sha256"));
    let (pcrs, nonce) = ("sha256:0,1", "010203");
    let quote = mine.quote(&tpm, pcrs, nonce, "serialized");
    let key = mine.key();
    // Every PCR of every bank: that a value is missing never decides.
    let all = tools_values(
        &mine.quote(&tpm, "sha1:0,1+sha256:0,1,8+sha384:0,1", nonce, "serialized").values,
    )
    .unwrap();
    quote.verify(&key, pcrs, nonce, &all).unwrap();

    for wrong in ["0102", "01020304", "", "010204", "00010203"] {
        refused(wrong, quote.verify(&key, pcrs, wrong, &all), Step::Nonce);
        assert!(!quote.check(&tpm, &mine.pem, "sha256", wrong) || wrong.is_empty());
    }
    refused("other key", quote.verify(&other.key(), pcrs, nonce, &all), Step::Signature);
    assert!(!quote.check(&tpm, &other.pem, "sha256", nonce));
    for quoted in ["sha256:0", "sha256:0,1,8", "sha1:0,1", "sha384:0,1", "sha256:0,1+sha1:0"] {
        let quote = mine.quote(&tpm, quoted, nonce, "serialized");
        quote.verify(&key, quoted, nonce, &all).unwrap();
        refused(quoted, quote.verify(&key, pcrs, nonce, &all), Step::Selection);
    }
    let [mut swapped, mut changed] = [all.clone(), all.clone()];
    let pcr = |index| PcrIndex::new(index).unwrap();
    let bank = all.iter().position(|bank| bank.algorithm() == Algorithm::Sha256).unwrap();
    let eight = all[bank].get(pcr(8)).unwrap();
    changed[bank].extend(pcr(1), eight).unwrap();
    refused("changed", quote.verify(&key, pcrs, nonce, &changed), Step::Digest);
    // The premise: with the old value in its place it is accepted.
    changed[bank].set(pcr(1), all[bank].get(pcr(1)).unwrap()).unwrap();
    quote.verify(&key, pcrs, nonce, &changed).unwrap();
    // So far 0 and 1 hold the same.
    tpm.tool(&format!("tpm2_pcrextend 1:sha256={eight}"));
    let quote = mine.quote(&tpm, pcrs, nonce, "serialized");
    let now = tools_values(&quote.values).unwrap();
    quote.verify(&key, pcrs, nonce, &now).unwrap();
    swapped[bank].set(pcr(0), now[0].get(pcr(1)).unwrap()).unwrap();
    swapped[bank].set(pcr(1), now[0].get(pcr(0)).unwrap()).unwrap();
    refused("swapped", quote.verify(&key, pcrs, nonce, &swapped), Step::Digest);
}

#[test]
fn changed_bytes_are_refused() {
    let Some(tpm) = measured() else { return };
    for (number, (kind, scheme)) in
        [("rsa", "rsassa"), ("rsa", "rsapss"), ("ecc", "ecdsa")].into_iter().enumerate()
    {
        let ak = ak(&tpm, number as u32, kind, scheme, "sha256");
        let (key, pcrs, nonce) = (ak.key(), "sha256:0,1", "01");
        let quote = ak.quote(&tpm, pcrs, nonce, "serialized");
        let values = tools_values(&quote.values).unwrap();
        let with = |message: &[u8], signature: &[u8]| {
            let quote = Quote {
                message: message.to_vec(),
                signature: signature.to_vec(),
                values: Vec::new(),
            };
            quote.verify(&key, pcrs, nonce, &values)
        };
        let (message, signature) = (&quote.message[..], &quote.signature[..]);
        with(message, signature).unwrap();
        let longer = |bytes: &[u8]| [bytes, &[0]].concat();
        refused("cut", with(&message[..message.len() - 1], signature), Step::Structure);
        refused("extended", with(&longer(message), signature), Step::Structure);
        refused("cut", with(message, &signature[..signature.len() - 1]), Step::Structure);
        refused("extended", with(message, &longer(signature)), Step::Structure);
        refused("empty", with(&[], signature), Step::Structure);
        refused("empty", with(message, &[]), Step::Structure);
        let flipped = |bytes: &[u8], at: usize| {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 1;
            bytes
        };
        let last = signature.len() - 1;
        refused("signature", with(message, &flipped(signature, last)), Step::Signature);
        refused("digest", with(&flipped(message, message.len() - 1), signature), Step::Signature);
        refused("magic", with(&flipped(message, 3), signature), Step::Magic);
        refused("type", with(&flipped(message, 5), signature), Step::Type);
    }
}

#[test]
fn a_statement_that_is_no_quote_is_refused() {
    let Some(tpm) = measured() else { return };
    let ak = ak(&tpm, 0, "ecc", "ecdsa", "sha256");
    let values = tools_values(&ak.quote(&tpm, "sha256:0", "01", "serialized").values).unwrap();
    let read = |name| std::fs::read(tpm.path(name)).unwrap();
    let handle = &ak.handle;
    tpm.tool(&format!(
        "tpm2_gettime -c {handle} -q 01 -g sha256 -s ecdsa --attestation time.msg -o time.sig"
    ));
    let time = Quote { message: read("time.msg"), signature: read("time.sig"), values: Vec::new() };
    refused("time", time.verify(&ak.key(), "sha256:0", "01", &values), Step::Type);
}

#[test]
fn what_a_tpm_did_not_make_is_refused_whoever_signed_it() {
    let Some(tpm) = measured() else { return };
    let ak = ak(&tpm, 0, "ecc", "ecdsa", "sha256");
    let quote = ak.quote(&tpm, "sha256:0", "01", "serialized");
    let values = tools_values(&quote.values).unwrap();
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let software = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let pem = software.public_key_to_pem().unwrap();
    let key = AttestationKey::parse(&pem).unwrap();
    let signed = |message: Vec<u8>| {
        let mut signer = Signer::new(MessageDigest::sha256(), &software).unwrap();
        let der = signer.sign_oneshot_to_vec(&message).unwrap();
        let parts = EcdsaSig::from_der(&der).unwrap();
        let mut signature = vec![0x00, 0x18, 0x00, 0x0b];
        for part in [parts.r().to_vec(), parts.s().to_vec()] {
            signature.extend((part.len() as u16).to_be_bytes());
            signature.extend(part);
        }
        Quote { message, signature, values: quote.values.clone() }
    };
    // The premise: signed by this key the message is as good as any. That a key
    // is one of a TPM its certificate says, not the quote.
    let unchanged = signed(quote.message.clone());
    unchanged.verify(&key, "sha256:0", "01", &values).unwrap();
    assert!(unchanged.check(&tpm, &pem, "sha256", "01"));
    let mut message = quote.message.clone();
    message[0] = 0;
    refused("magic", signed(message).verify(&key, "sha256:0", "01", &values), Step::Magic);
    let mut message = quote.message.clone();
    message[5] = 0x19;
    refused("type", signed(message).verify(&key, "sha256:0", "01", &values), Step::Type);
}

#[test]
fn a_key_that_signs_foreign_bytes_is_refused() {
    let Some(tpm) = measured() else { return };
    let ak = ak(&tpm, 0, "ecc", "ecdsa", "sha256");
    let quote = ak.quote(&tpm, "sha256:0", "01", "serialized");
    let values = tools_values(&quote.values).unwrap();
    tpm.tool("tpm2_createprimary -C o -c srk.ctx");
    tpm.tool("tpm2_create -C srk.ctx -G ecc:ecdsa -u key.pub -r key.priv");
    tpm.tool("tpm2_flushcontext -t");
    tpm.tool("tpm2_load -C srk.ctx -u key.pub -r key.priv -c key.ctx");
    tpm.tool("tpm2_flushcontext -t");
    tpm.write("forged", &quote.message);
    tpm.tool("tpm2_sign -c key.ctx -g sha256 -s ecdsa -o forged.sig forged");
    let read = |name| std::fs::read(tpm.path(name)).unwrap();
    let forged =
        Quote { message: quote.message, signature: read("forged.sig"), values: quote.values };
    let public = read("key.pub");
    let key = AttestationKey::parse(&public).unwrap();
    refused("any bytes", forged.verify(&key, "sha256:0", "01", &values), Step::Key);
    // The premise: it is the attributes alone that refuse it.
    tpm.tool("tpm2_flushcontext -t");
    tpm.tool("tpm2_readpublic -c key.ctx -f pem -o key.pem");
    let key = AttestationKey::parse(&read("key.pem")).unwrap();
    forged.verify(&key, "sha256:0", "01", &values).unwrap();
}

/// The clock of a quote, as the TPM signed it.
fn clock(tpm: &Tpm, ak: &Ak) -> ClockInfo {
    let quote = ak.quote(tpm, "sha256:0", "01", "serialized");
    let values = tools_values(&quote.values).unwrap();
    *quote.verify(&ak.key(), "sha256:0", "01", &values).unwrap().clock()
}

/// Starts the TPM anew, with or without telling it before.
fn reset(tpm: &Tpm, orderly: bool) {
    if orderly {
        tpm.tool("tpm2_shutdown -c");
    }
    tpm.tool("swtpm_ioctl --unix tpm.ctrl -i");
    tpm.tool("tpm2_startup -c");
}

#[test]
fn a_clock_goes_on_over_reboots_and_power_cuts_and_never_back() {
    let Some(tpm) = measured() else { return };
    let endorsement = ak(&tpm, 0, "ecc", "ecdsa", "sha256");
    tpm.tool("tpm2_createprimary -C o -c srk.ctx");
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign";
    tpm.tool(&format!(
        "tpm2_create -C srk.ctx -G ecc:ecdsa-sha256:null -u key.pub -r key.priv -a {attributes}"
    ));
    tpm.tool("tpm2_flushcontext -t");
    tpm.tool("tpm2_load -C srk.ctx -u key.pub -r key.priv -c ak.ctx");
    tpm.tool("tpm2_flushcontext -t");
    let owner = persistent(&tpm, 1, "ecdsa", "sha256");
    // The premise of counting round the end of the range: a TPM adds a number to
    // the counts that it signs with a key of the owner.
    assert_eq!(clock(&tpm, &endorsement).reset_count, 1);
    assert!(clock(&tpm, &owner).reset_count > 1000);
    for ak in [&endorsement, &owner] {
        let first = clock(&tpm, ak);
        let second = clock(&tpm, ak);
        assert!(matches!(compare(&first, &second), ClockChange::Onwards { .. }));
        if first.clock != second.clock {
            assert_eq!(compare(&second, &first), ClockChange::ClockBackwards);
        }
        reset(&tpm, true);
        let rebooted = clock(&tpm, ak);
        let want = ClockChange::Rebooted { resets: 1, power_cut: false };
        assert_eq!(compare(&second, &rebooted), want);
        assert_eq!(compare(&rebooted, &second), ClockChange::ResetsBackwards);
        reset(&tpm, false);
        let cut = clock(&tpm, ak);
        assert!(!cut.safe);
        let change = compare(&rebooted, &cut);
        assert!(matches!(change, ClockChange::Rebooted { resets: 1, .. }), "{change:?}");
    }
}

#[test]
fn nonces_are_as_long_as_a_tpm_takes() {
    let Some(tpm) = measured() else { return };
    let ak = ak(&tpm, 0, "ecc", "ecdsa", "sha256");
    let handle = u32::from_str_radix(&ak.handle[2..], 16).unwrap();
    // tpm2_quote takes 64 bytes, so the command is written by hand: TPM2_Quote
    // (TPM 2.0 Library 1.59, Part 3, 18.4) with an empty password.
    let code = |answer: &[u8]| u32::from_be_bytes(answer[6..10].try_into().unwrap());
    let answer = |size: usize| {
        let mut body = handle.to_be_bytes().to_vec();
        body.extend([0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0]);
        body.extend((size as u16).to_be_bytes());
        body.resize(body.len() + size, 0x5a);
        body.extend([0x00, 0x18, 0x00, 0x0b]); // ECDSA, SHA-256
        body.extend([0, 0, 0, 1, 0x00, 0x0b, 3, 1, 0, 0]); // SHA-256, PCR 0
        let mut command = vec![0x80, 0x02];
        command.extend((body.len() as u32 + 10).to_be_bytes());
        command.extend([0, 0, 1, 0x58]);
        tpm.write("command", &[command, body].concat());
        // The other tools send a command again by themselves when the TPM answers
        // TPM_RC_RETRY (0x922; Part 2, 6.6.3).
        for _ in 0..10 {
            tpm.tool("tpm2_send -o answer command");
            let answer = std::fs::read(tpm.path("answer")).unwrap();
            if code(&answer) != 0x922 {
                return answer;
            }
        }
        panic!("the TPM only ever wants the command again");
    };
    // Behind the header: size of the parameters, TPM2B_ATTEST.
    let longest = answer(pcr_measure::quote::MAX_NONCE);
    assert_eq!(code(&longest), 0);
    let size = usize::from(u16::from_be_bytes([longest[14], longest[15]]));
    let attest = Attest::parse(&longest[16..16 + size]).unwrap();
    assert_eq!(attest.extra_data, [0x5a; pcr_measure::quote::MAX_NONCE]);
    // TPM_RC_SIZE of the first parameter.
    assert_eq!(code(&answer(pcr_measure::quote::MAX_NONCE + 1)), 0x1d5);
}
