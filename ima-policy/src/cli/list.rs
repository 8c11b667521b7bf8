//! Measurement lists as files.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use ima_policy::list::ascii::Ascii;
use ima_policy::list::binary::Binary;
use ima_policy::list::{DEFAULT, ListError, Record, kernel_name};
use pcr_measure::digest::Algorithm;

/// How a list was written.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// The hash of the template digests in the lists
    #[arg(long, value_name = "HASH", value_parser = algorithm, default_value = kernel_name(DEFAULT))]
    pub(super) list_hash: Algorithm,
}

/// A hash by the kernel's name.
pub(super) fn algorithm(text: &str) -> Result<Algorithm, String> {
    let known = || Algorithm::ALL.into_iter().filter(|its| !kernel_name(*its).is_empty());
    known().find(|its| kernel_name(*its) == text).ok_or_else(|| {
        let names: Vec<_> = known().map(kernel_name).collect();
        format!("one of {}", names.join(", "))
    })
}

/// The records of a list, as text or in the binary form: that begins with a PCR's number in
/// four bytes, of which the last three are zero.
pub(super) fn records(
    path: &Path,
    hash: Algorithm,
) -> Result<Box<dyn Iterator<Item = Result<Record, ListError>>>> {
    let open = || -> std::io::Result<_> {
        let mut reader = BufReader::with_capacity(1 << 16, File::open(path)?);
        let first = reader.fill_buf()?.first().copied();
        Ok((reader, first))
    };
    let (reader, first) = open().with_context(|| format!("cannot read {}", path.display()))?;
    let first = first.ok_or_else(|| anyhow!("the list {} is empty", path.display()))?;
    Ok(match first == b' ' || first.is_ascii_digit() {
        true => Box::new(Ascii::new(reader, hash)),
        false => Box::new(Binary::new(reader, hash)),
    })
}
