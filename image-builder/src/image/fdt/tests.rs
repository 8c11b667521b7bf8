//! Trees that dtc made, and trees that nobody should believe.

use super::*;

/// A tree by hand: `nodes` is the structure block without its end.
fn tree(structure: &[u8], strings: &[u8]) -> Vec<u8> {
    let off_struct = 40 + 16;
    let off_strings = off_struct + structure.len();
    let total = off_strings + strings.len();
    let mut out = Vec::new();
    for value in [
        MAGIC as usize,
        total,
        off_struct,
        off_strings,
        40,
        17,
        16,
        0,
        strings.len(),
        structure.len(),
    ] {
        out.extend_from_slice(&u32::try_from(value).unwrap().to_be_bytes());
    }
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(structure);
    out.extend_from_slice(strings);
    out
}

/// A tree with these nodes, each with the property `compatible`.
pub(crate) fn with_nodes(paths: &[&str]) -> Vec<u8> {
    use T::{B, W};
    let mut all = vec![W(BEGIN_NODE), B(b"\0")];
    let names: Vec<Vec<Vec<u8>>> = paths
        .iter()
        .map(|path| parts(path).map(|name| [name.as_bytes(), b"\0"].concat()).collect())
        .collect();
    for path in &names {
        all.extend(path.iter().flat_map(|name| [W(BEGIN_NODE), B(name)]));
        all.extend([W(PROP), W(2), W(0), B(b"x\0")]);
        all.extend(path.iter().map(|_| W(END_NODE)));
    }
    all.extend([W(END_NODE), W(9)]);
    tree(&structure(&all), b"compatible\0")
}

/// One word of the structure block, or bytes padded to a word.
enum T<'a> {
    W(u32),
    B(&'a [u8]),
}

fn structure(tokens: &[T<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for token in tokens {
        match token {
            T::W(word) => out.extend_from_slice(&word.to_be_bytes()),
            T::B(bytes) => {
                out.extend_from_slice(bytes);
                out.resize(out.len().next_multiple_of(4), 0);
            }
        }
    }
    out
}

/// `/ { p = "root"; a { p = "one"; }; a { q = "two"; }; b { a { q = "x"; }; }; };`
fn sample() -> Vec<u8> {
    use T::{B, W};
    let root_begin = [W(BEGIN_NODE), B(b"\0")];
    let (p, q) = (0, 2);
    let mut all = Vec::new();
    all.extend(root_begin);
    all.extend([W(PROP), W(5), W(p), B(b"root\0")]);
    all.extend([W(BEGIN_NODE), B(b"a\0"), W(PROP), W(4), W(p), B(b"one\0")]);
    all.extend([W(NOP), W(END_NODE)]);
    all.extend([W(BEGIN_NODE), B(b"a\0"), W(PROP), W(4), W(q), B(b"two\0")]);
    all.extend([W(END_NODE), W(BEGIN_NODE), B(b"b\0")]);
    all.extend([W(BEGIN_NODE), B(b"a\0"), W(PROP), W(2), W(q), B(b"x\0")]);
    all.extend([W(END_NODE), W(END_NODE), W(END_NODE), W(9)]);
    tree(&structure(&all), b"p\0q\0")
}

#[test]
fn properties_are_found_by_their_path() {
    let bytes = sample();
    let fdt = Fdt::new(&bytes).unwrap();
    let cases = [
        ("/", "p", Some("root")),
        ("/a", "p", Some("one")),
        ("/b/a", "q", Some("x")),
        // The first `a` hides the second one.
        ("/a", "q", None),
        ("/b", "q", None),
        ("/a/b", "q", None),
        ("/c", "p", None),
    ];
    for (path, property, expected) in cases {
        assert_eq!(fdt.text(path, property), expected, "{path} {property}");
    }
    assert_eq!(fdt.total_size(), bytes.len());
}

#[test]
fn a_text_has_one_nul_and_that_at_its_end() {
    use T::{B, W};
    for (value, expected) in [
        (&b"ab\0\0"[..], None),
        (b"a\0b\0", None),
        (b"abc\0", Some("abc")),
        (b"abcd", None),
        (b"\xff\xff\xff\0", None),
    ] {
        let body = [W(BEGIN_NODE), B(b"\0"), W(PROP), W(4), W(0), B(value), W(END_NODE)];
        let bytes = tree(&structure(&body), b"p\0");
        assert_eq!(Fdt::new(&bytes).unwrap().text("/", "p"), expected);
    }
}

#[test]
fn broken_trees_are_refused() {
    use T::{B, W};
    let root = || [W(BEGIN_NODE), B(b"\0")];
    let build = |tokens: Vec<T<'_>>| tree(&structure(&tokens), b"p\0");
    let cases = [
        ("no end", build(root().into())),
        ("end first", build(vec![W(END_NODE)])),
        ("property outside", build(vec![W(PROP), W(0), W(0)])),
        ("unknown token", build(root().into_iter().chain([W(7)]).collect())),
        ("value beyond", build(root().into_iter().chain([W(PROP), W(u32::MAX), W(0)]).collect())),
        (
            "name beyond",
            build(root().into_iter().chain([W(PROP), W(0), W(99), W(END_NODE)]).collect()),
        ),
        ("too deep", build((0..64).flat_map(|_| root()).collect())),
    ];
    for (what, bytes) in cases {
        assert!(matches!(Fdt::new(&bytes), Err(FdtError::Structure(_))), "{what}");
    }
}

#[test]
fn no_cut_and_no_flipped_byte_makes_it_panic() {
    let good = sample();
    for end in 0..good.len() {
        assert!(Fdt::new(&good[..end]).is_err(), "cut at {end}");
    }
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            if let Ok(fdt) = Fdt::new(&bytes) {
                let _ = fdt.text("/b/a", "q");
            }
        }
    }
}
