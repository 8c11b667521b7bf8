//! The little DER (ITU-T X.690) that keys and signatures of policies need: a
//! SEQUENCE of two INTEGERs that are not negative.

/// Tags (X.690, 8.3 and 8.9).
const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;
/// The longest content of one length byte (8.1.3.4).
const SHORT: usize = 0x7f;

/// Reads `SEQUENCE { INTEGER, INTEGER }`, whole, as an ECDSA signature is
/// written (RFC 3279, 2.2.3): most significant byte first, no leading zeros.
///
/// `None` for anything else, for negative numbers, and for more than 127 bytes:
/// signatures on P-256 have 72 at most.
#[must_use]
pub fn two_integers(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, []) = element(bytes, SEQUENCE)? else { return None };
    let (first, rest) = element(content, INTEGER)?;
    let (second, []) = element(rest, INTEGER)? else { return None };
    Some((magnitude(first)?, magnitude(second)?))
}

/// Writes `SEQUENCE { INTEGER, INTEGER }`, as a public RSA key is written
/// (RFC 8017, A.1.1).
pub(super) fn write_two_integers(first: &[u8], second: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    for number in [first, second] {
        let significant = number.iter().skip_while(|byte| **byte == 0).copied();
        let mut value: Vec<u8> = significant.collect();
        // A leading one would make it negative, nothing at all is no number.
        if value.first().is_none_or(|byte| byte & 0x80 != 0) {
            value.insert(0, 0);
        }
        write_element(&mut content, INTEGER, &value);
    }
    let mut out = Vec::new();
    write_element(&mut out, SEQUENCE, &content);
    out
}

/// The content of the first element, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let ([found, length], rest) = bytes.split_first_chunk()?;
    let length = usize::from(*length);
    (*found == tag && length <= SHORT).then(|| rest.split_at_checked(length))?
}

/// A number without the zero that keeps it from being negative.
fn magnitude(integer: &[u8]) -> Option<&[u8]> {
    match integer {
        [] => None,
        [first, ..] if first & 0x80 != 0 => None,
        // The zero is there for the byte behind it alone (8.3.2).
        [0, next, ..] if next & 0x80 == 0 => None,
        [0, rest @ ..] => Some(rest),
        whole => Some(whole),
    }
}

fn write_element(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    if content.len() <= SHORT {
        out.push(content.len() as u8);
    } else {
        let length = content.len().to_be_bytes();
        let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
        out.push(0x80 | length.len() as u8);
        out.extend(length);
    }
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_are_read() {
        let cases: [(&str, Option<(&str, &str)>); 14] = [
            ("3006020101020102", Some(("01", "02"))),
            ("300702020080020102", Some(("80", "02"))),
            ("3006020100020102", Some(("", "02"))),
            // Negative, padded, empty, of another tag.
            ("3006020180020102", None),
            ("300702020001020102", None),
            ("30050200020102", None),
            ("3106020101020102", None),
            ("3006040101020102", None),
            // Too short, too long, three of them.
            ("30060201010201", None),
            ("300602010102010200", None),
            ("3009020101020102020103", None),
            ("3005020101020102", None),
            ("30", None),
            ("3081060201010201 02", None),
        ];
        for (bytes, want) in cases {
            let bytes = hex::decode(bytes.replace(' ', "")).unwrap();
            let got = two_integers(&bytes).map(|(r, s)| (hex::encode(r), hex::encode(s)));
            let want = want.map(|(r, s)| (r.to_owned(), s.to_owned()));
            assert_eq!(got, want, "{bytes:02x?}");
        }
        assert_eq!(two_integers(&[]), None);
    }

    #[test]
    fn what_is_written_is_read_and_long_ones_have_long_lengths() {
        let bytes = write_two_integers(&[0, 0, 0x80], &[3]);
        assert_eq!(two_integers(&bytes), Some((&[0x80][..], &[3][..])));
        let long = write_two_integers(&[1; 256], &[1, 0, 1]);
        assert_eq!(hex::encode(&long[..9]), "30820109028201000101".split_at(18).0);
        assert_eq!(hex::encode(&long[264..]), "0203010001");
    }
}
