use super::*;

#[test]
fn the_table_has_no_two_rows_alike() {
    for algorithm in Algorithm::ALL {
        assert_eq!(Algorithm::from_id(algorithm.id()), Some(algorithm));
        assert_eq!(algorithm.name().parse(), Ok(algorithm));
        assert!(algorithm.size() <= MAX_DIGEST_SIZE);
    }
    assert_eq!(Algorithm::from_id(0x0010), None);
    assert!("SHA256".parse::<Algorithm>().is_err());
}

#[test]
fn known_answers() {
    // FIPS 180-4 and FIPS 202 examples, GB/T 32905: the message "abc".
    let cases = [
        (Algorithm::Sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            Algorithm::Sha384,
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
        ),
        #[cfg(feature = "all-banks")]
        (Algorithm::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
        #[cfg(feature = "all-banks")]
        (Algorithm::Sm3_256, "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"),
        #[cfg(feature = "all-banks")]
        (Algorithm::Sha3_256, "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
    ];
    for (algorithm, want) in cases {
        assert_eq!(algorithm.hash(&[b"a", b"bc"]).unwrap().to_string(), want, "{algorithm}");
    }
}

#[test]
fn a_reader_gives_the_digest_of_its_bytes() {
    let bytes = vec![7; 600_000];
    let (digest, size) = Sha256Digest::of_reader(&mut bytes.as_slice()).unwrap();
    assert_eq!((digest, size), (Sha256Digest::of(&bytes), 600_000));
}

#[test]
fn hex_is_taken_exactly_or_refused() {
    let digest = Sha256Digest::of(b"");
    assert_eq!(digest.to_string().to_uppercase().parse(), Ok(digest));
    let long = format!("{digest}00");
    for bad in ["", "e3", "zz", &digest.to_string()[..63], &long] {
        assert!(bad.parse::<Sha256Digest>().is_err(), "{bad}");
        assert!(Digest::from_hex(Algorithm::Sha256, bad).is_err(), "{bad}");
    }
}

#[test]
fn both_digest_types_convert_without_loss() {
    let digest = Sha256Digest::of(b"x");
    assert_eq!(Digest::from(digest).as_sha256(), Some(digest));
    assert_eq!(Digest::filled(Algorithm::Sha384, 0).as_sha256(), None);
}
