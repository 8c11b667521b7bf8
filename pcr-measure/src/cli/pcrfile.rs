//! Files of PCR values: what tpm2_pcrread prints, our own JSON, or what
//! tpm2_quote -o writes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use pcr_measure::quote::{concatenated_values, tools_values};
use pcr_measure::text::{listed, printable};
use pcr_measure::{Algorithm, Digest, PcrBank, PcrIndex, PcrSelection};

use super::input;

/// Largest such file, in bytes. Eight banks of 24 PCRs are below 32 KiB.
const MAX_FILE: usize = 64 * 1024;

/// The SHA-256 values of a file.
pub(super) fn sha256(path: &Path) -> Result<PcrBank> {
    bank(path, Algorithm::Sha256)
}

/// The values of one bank of a file.
pub(super) fn bank(path: &Path, algorithm: Algorithm) -> Result<PcrBank> {
    let bytes = input::read(path, MAX_FILE)?;
    let found = parse(&bytes)
        .and_then(|mut banks| {
            banks.retain(|_, bank| !bank.is_empty());
            let has: Vec<_> = banks.keys().copied().collect();
            banks.remove(&algorithm).ok_or_else(|| {
                anyhow!("no {algorithm} values; banks with values: {}", listed(&has))
            })
        })
        .with_context(|| format!("cannot take PCR values from {}", path.display()))?;
    Ok(found)
}

/// The bytes of a file of PCR values, for [`quoted_values`].
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    input::read(path, MAX_FILE)
}

/// The values of every bank: text, JSON, or either form of tpm2_quote -o; of these
/// the one without a head is laid out by `selections`.
pub(super) fn quoted_values(bytes: &[u8], selections: &[PcrSelection]) -> Result<Vec<PcrBank>> {
    if is_text(bytes) {
        return Ok(parse(bytes)?.into_values().collect());
    }
    let size = |selection: &PcrSelection| selection.iter().count() * selection.bank().size();
    let dumped = tools_values(bytes);
    match dumped {
        Err(_) if bytes.len() == selections.iter().map(size).sum::<usize>() => {
            Ok(concatenated_values(bytes, selections)?)
        }
        dumped => dumped.context(
            "it is neither what tpm2_pcrread prints, nor JSON, nor what tpm2_quote -o writes for these PCRs",
        ),
    }
}

/// Digests are not: one in some million of millions is of printable bytes.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'))
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<Algorithm, PcrBank>> {
    let text = std::str::from_utf8(bytes).context("this is no text")?;
    if text.trim_start().starts_with('{') { from_json(text) } else { from_pcrread(text) }
}

/// `{"0": "<hex>"}`, of the SHA-256 bank.
fn from_json(text: &str) -> Result<BTreeMap<Algorithm, PcrBank>> {
    let bank =
        serde_json::from_str(text).map_err(|error| anyhow!(printable(&error.to_string())))?;
    Ok(BTreeMap::from([(Algorithm::Sha256, bank)]))
}

/// Lines `  sha256:` and `    0 : 0x<hex>`.
fn from_pcrread(text: &str) -> Result<BTreeMap<Algorithm, PcrBank>> {
    let mut banks = BTreeMap::new();
    let mut current: Option<Algorithm> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad =
            || anyhow!("line {}: {:?} is neither a bank nor a PCR", number + 1, printable(line));
        let (key, value) = line.split_once(':').ok_or_else(bad)?;
        let (key, value) = (key.trim(), value.trim());
        if value.is_empty() {
            let algorithm = key.parse::<Algorithm>().map_err(|_| bad())?;
            if banks.insert(algorithm, PcrBank::new(algorithm)).is_some() {
                bail!("line {}: a second {algorithm} bank", number + 1);
            }
            current = Some(algorithm);
            continue;
        }
        let algorithm = current.ok_or_else(bad)?;
        let pcr = PcrIndex::new(key.parse().map_err(|_| bad())?)?;
        let hex = value.strip_prefix("0x").ok_or_else(bad)?;
        let value = digest(algorithm, pcr, hex)?;
        let bank = banks.entry(algorithm).or_insert_with(|| PcrBank::new(algorithm));
        if bank.get(pcr).is_some() {
            bail!("line {}: a second value of PCR {pcr}", number + 1);
        }
        bank.set(pcr, value)?;
    }
    Ok(banks)
}

fn digest(algorithm: Algorithm, pcr: PcrIndex, hex: &str) -> Result<Digest> {
    Digest::from_hex(algorithm, hex).with_context(|| format!("PCR {pcr}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let value = "ab".repeat(32);
        let pcrread =
            format!("  sha1:\n  sha256:\n    0 : 0x{}\n    15: 0x{value}\n", "AB".repeat(32));
        let json = format!("{{\"0\":\"{value}\",\"15\":\"{value}\"}}");
        let banks = [parse(pcrread.as_bytes()).unwrap(), parse(json.as_bytes()).unwrap()];
        for mut banks in banks {
            let bank = banks.remove(&Algorithm::Sha256).unwrap();
            let got: Vec<_> = bank.iter().map(|(pcr, v)| (pcr.get(), v.to_string())).collect();
            assert_eq!(got, [(0, value.clone()), (15, value.clone())]);
        }
    }

    #[test]
    fn files_of_quotes_are_told_apart() {
        let (value, hex) = ([0xab; 32], "ab".repeat(32));
        let selections = ["0".parse().unwrap()];
        // Values that were all zero are no text either.
        for value in [value, [0; 32]] {
            let bank = quoted_values(&value, &selections).unwrap().remove(0);
            assert_eq!(bank.iter().next().unwrap().1.as_bytes(), value);
        }
        for text in [format!("  sha256:\n    0 : 0x{hex}\n"), format!("{{\"0\":\"{hex}\"}}")] {
            let bank = quoted_values(text.as_bytes(), &selections).unwrap().remove(0);
            assert_eq!(bank.iter().next().unwrap().1.as_bytes(), value);
        }
        for bad in [&value[1..], &[0xab; 33], &[0xab; 668]] {
            let error = format!("{:#}", quoted_values(bad, &selections).unwrap_err());
            assert!(error.contains("nor what tpm2_quote -o writes"), "{error}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let v = "ab".repeat(32);
        let cases = [
            "hello".to_owned(),
            format!("0 : 0x{v}"),
            format!("sha256:\n 24 : 0x{v}"),
            "sha256:\n 0 : 0xab".to_owned(),
            format!("sha256:\n 0 : {v}"),
            format!("sha256:\n 0 : 0x{v}\n 0 : 0x{v}"),
            "sha256:\nsha256:\n".to_owned(),
            format!("{{\"24\":\"{v}\"}}"),
            "{\"0\":\"ab\"}".to_owned(),
            format!("{{\"0\":\"{v}\",\"0\":\"{v}\"}}"),
            "{".to_owned(),
        ];
        for case in cases {
            assert!(parse(case.as_bytes()).is_err(), "{case}");
        }
    }
}
