use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;

use super::*;
use crate::Sha256Digest;
use crate::pcr::PcrError;
use crate::structures::TpmPublic;
use crate::structures::build::{Quote, signature, sized};

/// `TPM_ALG_ID`.
const RSASSA: u16 = 0x0014;
const ECDSA: u16 = 0x0018;

/// A software key that signs whatever it is given, as an attacker's would.
struct Key(PKey<Private>);

impl Key {
    fn ecc() -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        Self(PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap())
    }

    fn public(&self) -> AttestationKey {
        AttestationKey::parse(&self.0.public_key_to_pem().unwrap()).unwrap()
    }

    /// A `TPMT_PUBLIC` of the key with these attributes.
    fn public_area(&self, attributes: u32) -> Vec<u8> {
        let key = self.0.ec_key().unwrap();
        let mut context = openssl::bn::BigNumContext::new().unwrap();
        let form = openssl::ec::PointConversionForm::UNCOMPRESSED;
        let point = key.public_key().to_bytes(key.group(), form, &mut context).unwrap();
        let mut out = vec![0x00, 0x23, 0x00, 0x0b];
        out.extend(attributes.to_be_bytes());
        out.extend([0, 0]); // no policy
        out.extend([0x00, 0x10, 0x00, 0x18, 0x00, 0x0b]); // no cipher; ECDSA with SHA-256
        out.extend([0x00, 0x03, 0x00, 0x10]); // P-256, no key derivation
        out.extend(sized(&point[1..33]));
        out.extend(sized(&point[33..]));
        out
    }

    fn sign(&self, hash: Algorithm, message: &[u8]) -> Vec<u8> {
        let digest = match hash {
            Algorithm::Sha1 => MessageDigest::sha1(),
            Algorithm::Sha384 => MessageDigest::sha384(),
            _ => MessageDigest::sha256(),
        };
        let mut signer = Signer::new(digest, &self.0).unwrap();
        let der = signer.sign_oneshot_to_vec(message).unwrap();
        let sig = EcdsaSig::from_der(&der).unwrap();
        signature(ECDSA, hash.id(), &[&sig.r().to_vec(), &sig.s().to_vec()])
    }
}

fn pcr(index: u32) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

/// SHA-256 and SHA-384 values of PCR 0 to 3; each PCR has another.
fn banks() -> Vec<PcrBank> {
    [Algorithm::Sha256, Algorithm::Sha384]
        .map(|algorithm| {
            let mut bank = PcrBank::new(algorithm);
            for index in 0..4 {
                bank.set(pcr(index), algorithm.hash(&[&index.to_be_bytes()]).unwrap()).unwrap();
            }
            bank
        })
        .to_vec()
}

fn selections(texts: &[&str]) -> Vec<PcrSelection> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The quote that the tests change: SHA-256 PCRs 0, 1 and SHA-384 PCR 2.
fn good() -> Quote {
    let banks = banks();
    let value = |n: usize, index| banks[n].get(pcr(index)).unwrap();
    let (a, b, c) = (value(0, 0), value(0, 1), value(1, 2));
    Quote {
        banks: vec![(0x000b, vec![3, 0, 0]), (0x000c, vec![4, 0, 0])],
        digest: Sha256Digest::of_parts(&[a.as_bytes(), b.as_bytes(), c.as_bytes()])
            .as_bytes()
            .to_vec(),
        ..Quote::default()
    }
}

const SELECTED: [&str; 2] = ["0,1", "sha384:2"];

/// Signs the quote and verifies it, expecting what `good` holds.
fn check(quote: &Quote) -> Result<VerifiedQuote, QuoteError> {
    let key = Key::ecc();
    let message = quote.bytes();
    let signature = key.sign(Algorithm::Sha256, &message);
    let expected =
        Expected { nonce: &[1, 2], selections: &selections(&SELECTED), values: &banks() };
    verify(&message, &signature, &key.public(), &expected)
}

#[test]
fn a_good_quote_is_accepted() {
    let quote = check(&good()).unwrap();
    assert_eq!((quote.scheme(), quote.hash()), (Scheme::EcDsa, Algorithm::Sha256));
    assert_eq!(quote.qualified_signer(), [0, 0x0b, 7]);
    let clock = ClockInfo { clock: 1000, reset_count: 3, restart_count: 2, safe: true };
    assert_eq!(*quote.clock(), clock);
    assert_eq!(quote.firmware_version(), 0x2019_1023_0016_3636);
    let got: Vec<_> = quote.bank(Algorithm::Sha256).iter().map(|(pcr, _)| pcr.get()).collect();
    assert_eq!(got, [0, 1]);
    assert_eq!(quote.bank(Algorithm::Sha384).iter().count(), 1);
    assert_eq!(quote.bank(Algorithm::Sha1).iter().count(), 0);
}

#[test]
fn banks_without_pcrs_say_nothing() {
    let mut quote = good();
    quote.banks.insert(1, (0x0004, vec![0, 0, 0]));
    quote.banks.push((0x7777, vec![0]));
    check(&quote).unwrap();
}

#[test]
fn each_forged_field_is_refused_in_its_step() {
    check(&good()).unwrap();
    let banks = |banks: &[(u16, &[u8])]| Quote {
        banks: banks.iter().map(|(id, bits)| (*id, bits.to_vec())).collect(),
        ..good()
    };
    let nonce = |nonce: &[u8]| Quote { nonce: nonce.to_vec(), ..good() };
    let cases = [
        ("another magic", Quote { magic: 0xff54_4348, ..good() }, Step::Magic),
        ("no magic", Quote { magic: 0, ..good() }, Step::Magic),
        ("a certification", Quote { kind: 0x8017, ..good() }, Step::Type),
        ("a boolean that is none", Quote { clock: (0, 0, 0, 2), ..good() }, Step::Structure),
        ("another nonce", nonce(&[1, 3]), Step::Nonce),
        ("a shorter nonce", nonce(&[1]), Step::Nonce),
        ("a longer nonce", nonce(&[1, 2, 0]), Step::Nonce),
        ("no nonce", nonce(&[]), Step::Nonce),
        ("fewer PCRs", banks(&[(0x000b, &[1, 0, 0]), (0x000c, &[4, 0, 0])]), Step::Selection),
        ("more PCRs", banks(&[(0x000b, &[7, 0, 0]), (0x000c, &[4, 0, 0])]), Step::Selection),
        ("other PCRs", banks(&[(0x000b, &[3, 0, 0]), (0x000c, &[8, 0, 0])]), Step::Selection),
        ("another bank", banks(&[(0x0004, &[3, 0, 0]), (0x000c, &[4, 0, 0])]), Step::Selection),
        ("an unknown bank", banks(&[(0x7777, &[3, 0, 0]), (0x000c, &[4])]), Step::Selection),
        ("a bank less", banks(&[(0x000b, &[3, 0, 0])]), Step::Selection),
        ("no PCRs", banks(&[]), Step::Selection),
        ("a bank more", banks(&[(0x000b, &[3]), (0x000c, &[4]), (0x000d, &[1])]), Step::Selection),
        ("a bank twice", banks(&[(0x000b, &[3]), (0x000b, &[3]), (0x000c, &[4])]), Step::Selection),
        ("a bank twice, another not", banks(&[(0x000b, &[3]), (0x000b, &[3])]), Step::Selection),
        ("banks swapped", banks(&[(0x000c, &[4, 0, 0]), (0x000b, &[3, 0, 0])]), Step::Digest),
        ("another digest", Quote { digest: vec![9; 32], ..good() }, Step::Digest),
        ("a cut digest", Quote { digest: good().digest[..31].to_vec(), ..good() }, Step::Digest),
        ("no digest", Quote { digest: vec![], ..good() }, Step::Digest),
    ];
    for (what, quote, step) in cases {
        let error = check(&quote).unwrap_err();
        assert_eq!(error.step(), step, "{what}: {error}");
        assert!(error.is_refusal(), "{what}");
    }
}

#[test]
fn values_decide_by_place_and_bank() {
    let key = Key::ecc();
    let message = good().bytes();
    let signature = key.sign(Algorithm::Sha256, &message);
    let verify_with = |values: &[PcrBank]| {
        let selections = selections(&SELECTED);
        let expected = Expected { nonce: &[1, 2], selections: &selections, values };
        verify(&message, &signature, &key.public(), &expected)
    };
    verify_with(&banks()).unwrap();
    // PCRs that are not quoted may hold anything.
    let mut other = banks();
    other[0].extend(pcr(3), Sha256Digest::ZERO).unwrap();
    verify_with(&other).unwrap();
    let mut changed = banks();
    changed[0].extend(pcr(1), Sha256Digest::ZERO).unwrap();
    assert!(matches!(verify_with(&changed), Err(QuoteError::Digest { .. })));
    let mut swapped = banks();
    let (zero, one) = (swapped[0].get(pcr(0)).unwrap(), swapped[0].get(pcr(1)).unwrap());
    swapped[0].set(pcr(0), one).unwrap();
    swapped[0].set(pcr(1), zero).unwrap();
    assert!(matches!(verify_with(&swapped), Err(QuoteError::Digest { .. })));
    // A missing value says nothing about the quote.
    for missing in [&banks()[..1], &[]] {
        let error = verify_with(missing).unwrap_err();
        assert!(matches!(error, QuoteError::Values(PcrError::NoValue { .. })));
        assert!(!error.is_refusal());
    }
}

#[test]
fn the_digest_is_of_the_hash_that_signed() {
    let (key, banks) = (Key::ecc(), banks());
    let value = banks[0].get(pcr(0)).unwrap();
    let digest = Algorithm::Sha384.hash(&[value.as_bytes()]).unwrap().as_bytes().to_vec();
    let quote = Quote { banks: vec![(0x000b, vec![1, 0, 0])], digest, ..Quote::default() };
    let message = quote.bytes();
    let selections = selections(&["0"]);
    let expected = Expected { nonce: &[1, 2], selections: &selections, values: &banks };
    let with = |hash| verify(&message, &key.sign(hash, &message), &key.public(), &expected);
    assert_eq!(with(Algorithm::Sha384).unwrap().hash(), Algorithm::Sha384);
    assert!(matches!(with(Algorithm::Sha256), Err(QuoteError::Digest { .. })));
    assert!(matches!(with(Algorithm::Sha1), Err(QuoteError::Hash(_))));
}

#[test]
fn a_signature_is_of_this_key_over_these_bytes() {
    let (key, message) = (Key::ecc(), good().bytes());
    let right = key.sign(Algorithm::Sha256, &message);
    let selections = selections(&SELECTED);
    let expected = Expected { nonce: &[1, 2], selections: &selections, values: &banks() };
    let with = |message: &[u8], signature: &[u8]| {
        verify(message, signature, &key.public(), &expected).map(|_| ())
    };
    with(&message, &right).unwrap();
    // Every bit of the signature; of the message those that reach this step.
    for bit in 0..right.len() * 8 {
        let mut changed = right.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let error = with(&message, &changed).unwrap_err();
        assert!(matches!(error.step(), Step::Structure | Step::Signature), "{bit}: {error}");
        assert!(error.is_refusal());
    }
    for bit in 0..message.len() * 8 {
        let mut changed = message.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let error = with(&changed, &right).unwrap_err();
        let steps = [Step::Structure, Step::Magic, Step::Type, Step::Signature];
        assert!(steps.contains(&error.step()), "{bit}: {error}");
    }
    for other in [Key::ecc().sign(Algorithm::Sha256, &message), signature(ECDSA, 0x0b, &[&[], &[]])]
    {
        assert!(matches!(with(&message, &other), Err(QuoteError::Signature { .. })));
    }
    let rsa = signature(RSASSA, 0x000b, &[&[1; 256]]);
    let error = with(&message, &rsa).unwrap_err();
    assert!(matches!(error, QuoteError::OtherKey(_)) && error.is_refusal());
    for cut in 0..message.len() {
        assert!(matches!(with(&message[..cut], &right), Err(QuoteError::Message(_))));
    }
    for extended in [[&message[..], &[0]].concat(), [&[0], &message[..]].concat()] {
        assert!(matches!(
            with(&extended, &right),
            Err(QuoteError::Message(_) | QuoteError::Magic(_))
        ));
    }
    let extended = [&right[..], &[0]].concat();
    assert!(matches!(with(&message, &extended), Err(QuoteError::SignatureStructure(_))));
}

#[test]
fn a_key_that_signs_anything_is_refused() {
    let (key, message) = (Key::ecc(), good().bytes());
    let signature = key.sign(Algorithm::Sha256, &message);
    let selections = selections(&SELECTED);
    let expected = Expected { nonce: &[1, 2], selections: &selections, values: &banks() };
    // TPMA_OBJECT as tpm2_createak 5.7 makes it: fixedTPM, fixedParent,
    // sensitiveDataOrigin, userWithAuth, restricted, sign.
    const AK: u32 = 0x0005_0072;
    let cases = [
        (AK, None),
        (AK & !TpmPublic::RESTRICTED, Some("restricted")),
        (AK & !TpmPublic::FIXED_TPM, Some("fixedTPM")),
        (AK & !TpmPublic::SIGN, Some("sign")),
    ];
    for (attributes, missing) in cases {
        let public = AttestationKey::parse(&key.public_area(attributes)).unwrap();
        assert!(public.has_attributes());
        let got = verify(&message, &signature, &public, &expected);
        match (got, missing) {
            (Ok(_), None) => {}
            (Err(error @ QuoteError::Key(_)), Some(missing)) => {
                assert!(error.to_string().contains(missing), "{error}");
            }
            (got, _) => panic!("{attributes:#x}: {got:?}"),
        }
    }
    assert!(!key.public().has_attributes());
}

#[test]
fn what_cannot_be_expected_is_no_refusal() {
    let (key, values) = (Key::ecc(), banks());
    let cases: [(&[u8], &[&str], &str); 3] = [
        (&[0; MAX_NONCE + 1], &["0"], "67 bytes"),
        (&[0; MAX_NONCE], &[], "no PCRs"),
        (&[], &["0", "1"], "sha256 bank is named twice"),
    ];
    for (nonce, texts, want) in cases {
        let expected = Expected { nonce, selections: &selections(texts), values: &values };
        let error = verify(&[], &[], &key.public(), &expected).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert!(!error.is_refusal());
    }
}

/// The `serialized` form, as tpm2-tools writes it.
fn serialized(banks: &[(u16, u32)], digests: &[&[u8]]) -> Vec<u8> {
    let mut out = (banks.len() as u32).to_le_bytes().to_vec();
    for n in 0..16 {
        let (id, mask) = banks.get(n).copied().unwrap_or_default();
        out.extend(id.to_le_bytes());
        out.push(3);
        out.extend(mask.to_le_bytes());
        out.push(0);
    }
    let lists: Vec<_> = digests.chunks(8).collect();
    out.extend((lists.len() as u32).to_le_bytes());
    for list in lists {
        out.extend((list.len() as u32).to_le_bytes());
        for n in 0..8 {
            let digest = list.get(n).copied().unwrap_or_default();
            out.extend((digest.len() as u16).to_le_bytes());
            out.extend(digest);
            out.resize(out.len() + 64 - digest.len(), 0);
        }
    }
    out
}

#[test]
fn files_of_the_tools_give_their_values() {
    let banks = banks();
    let values: Vec<_> = banks.iter().flat_map(|bank| bank.iter().map(|(_, v)| v)).collect();
    let bytes: Vec<_> = values.iter().map(|value| value.as_bytes()).collect();
    let whole = serialized(&[(0x000b, 15), (0x000c, 15)], &bytes);
    assert_eq!(whole.len(), 136 + 532);
    assert_eq!(tools_values(&whole).unwrap(), banks);
    let plain = bytes.concat();
    let all = selections(&["0-3", "sha384:0-3"]);
    assert_eq!(concatenated_values(&plain, &all).unwrap(), banks);
    for end in 0..whole.len() {
        assert!(tools_values(&whole[..end]).is_err(), "{end}");
    }
    for bad in [
        [&whole[..], &[0]].concat(),
        serialized(&[], &[]),
        serialized(&[(0x000b, 1), (0x000b, 2)], &bytes[..2]),
        serialized(&[(0x7777, 1)], &bytes[..1]),
        serialized(&[(0x000b, 3)], &bytes[..1]),
        serialized(&[(0x000b, 1)], &bytes[..2]),
        serialized(&[(0x000c, 1)], &bytes[..1]),
        serialized(&[(0x000b, 1 << 23 << 1)], &bytes[..1]),
    ] {
        assert!(tools_values(&bad).is_err());
    }
    assert!(concatenated_values(&plain[1..], &all).is_err());
    assert!(concatenated_values(&[&plain[..], &[0]].concat(), &all).is_err());
}
