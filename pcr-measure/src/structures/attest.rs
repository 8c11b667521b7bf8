//! `TPMS_ATTEST`: what a TPM signs about itself.

use std::fmt;

use super::{StructureError, short};
use crate::eventlog::AlgorithmId;
use crate::pcr::{PCR_COUNT, PcrIndex};
use crate::reader::{Reader, Short};

/// What errors call the structure.
const WHAT: &str = "TPMS_ATTEST";
/// Banks of a `TPML_PCR_SELECTION` at most (`TPM2_NUM_PCR_BANKS` of tpm2-tss;
/// the specification's `HASH_COUNT` is smaller).
const MAX_BANKS: u32 = 16;
/// `TPM2_PCR_SELECT_MAX` of tpm2-tss: bits for 32 PCRs.
const MAX_SELECT: u8 = 4;

/// What a TPM signs (TPM 2.0 Library 1.59, Part 2, 10.12.12).
///
/// Nothing is verified: anybody can write these bytes. With the feature
/// `signature`, `quote::verify` tells whether a TPM did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest<'a> {
    /// [`Attest::GENERATED`] in whatever a TPM made itself.
    pub magic: u32,
    /// `TPMI_ST_ATTEST`: [`Attest::QUOTE`], or another statement.
    pub kind: u16,
    /// The Qualified Name of the signing key.
    pub qualified_signer: &'a [u8],
    /// What the caller had signed along: the nonce.
    pub extra_data: &'a [u8],
    /// The TPM's clock.
    pub clock: ClockInfo,
    /// The TPM's firmware version. For keys outside of the endorsement and
    /// platform hierarchies a number that belongs to the key is added to it
    /// (`FillInAttestInfo` of the reference code, Part 4).
    pub firmware_version: u64,
    /// The statement.
    pub attested: Attested<'a>,
}

/// `TPMU_ATTEST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attested<'a> {
    /// About PCRs.
    Quote(QuoteInfo<'a>),
    /// About anything else, unread.
    Other(&'a [u8]),
}

/// `TPMS_QUOTE_INFO` (Part 2, 10.12.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuoteInfo<'a> {
    /// Which PCRs, in the order in which they are hashed.
    pub selections: Vec<QuotedBank>,
    /// The hash over their values.
    pub pcr_digest: &'a [u8],
}

/// `TPMS_PCR_SELECTION` (Part 2, 10.6.2), of any bank, even an unknown one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotedBank {
    /// The bank.
    pub bank: AlgorithmId,
    /// Bit n = PCR n, 0 to 23. May be empty.
    pub mask: u32,
}

impl fmt::Display for QuotedBank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pcrs = PcrIndex::all().filter(|pcr| self.mask & 1 << pcr.get() != 0);
        let pcrs: Vec<_> = pcrs.map(|pcr| pcr.to_string()).collect();
        let pcrs = if pcrs.is_empty() { "none".to_owned() } else { pcrs.join(",") };
        write!(f, "{}:{pcrs}", self.bank)
    }
}

/// `TPMS_CLOCK_INFO` (Part 2, 10.11.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClockInfo {
    /// Milliseconds that the TPM has had power, since the last TPM2_Clear.
    pub clock: u64,
    /// TPM Resets since the last TPM2_Clear; added to as the firmware version is.
    pub reset_count: u32,
    /// TPM Restarts and Resumes since the last TPM Reset; added to likewise.
    pub restart_count: u32,
    /// Whether `clock` is certainly above every value that was reported before:
    /// after power was cut it is not, for up to 70 minutes.
    pub safe: bool,
}

impl<'a> Attest<'a> {
    /// `TPM_GENERATED_VALUE` (Part 2, 6.2): a restricted key signs no foreign
    /// bytes that begin so.
    pub const GENERATED: u32 = 0xff54_4347;
    /// `TPM_ST_ATTEST_QUOTE` (Part 2, 6.9).
    pub const QUOTE: u16 = 0x8018;

    /// Reads a `TPMS_ATTEST`, whole. Magic and kind may be any: they are to be
    /// checked.
    ///
    /// # Errors
    /// [`StructureError`]: truncated, left-over bytes, PCRs beyond 23, a boolean
    /// that is none.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, StructureError> {
        let mut reader = Reader::new(bytes);
        let magic = reader.be_u32().map_err(short(WHAT))?;
        let kind = reader.be_u16().map_err(short(WHAT))?;
        let qualified_signer = reader.tpm2b().map_err(short(WHAT))?;
        let extra_data = reader.tpm2b().map_err(short(WHAT))?;
        let clock = clock(&mut reader)?;
        let firmware_version = reader.be_u64().map_err(short(WHAT))?;
        let attested = match kind {
            Self::QUOTE => Attested::Quote(quote(&mut reader)?),
            _ => Attested::Other(reader.rest()),
        };
        Ok(Self { magic, kind, qualified_signer, extra_data, clock, firmware_version, attested })
    }
}

fn field(field: &'static str, value: impl Into<u64>) -> StructureError {
    StructureError::Field { what: WHAT, field, value: value.into() }
}

fn clock(reader: &mut Reader<'_>) -> Result<ClockInfo, StructureError> {
    let read = |reader: &mut Reader<'_>| -> Result<_, Short> {
        Ok((reader.be_u64()?, reader.be_u32()?, reader.be_u32()?, reader.u8()?))
    };
    let (clock, reset_count, restart_count, safe) = read(reader).map_err(short(WHAT))?;
    let safe = match safe {
        0 => false,
        1 => true,
        other => return Err(field("safe", other)),
    };
    Ok(ClockInfo { clock, reset_count, restart_count, safe })
}

/// Reads to the end.
fn quote<'a>(reader: &mut Reader<'a>) -> Result<QuoteInfo<'a>, StructureError> {
    let count = reader.be_u32().map_err(short(WHAT))?;
    if count > MAX_BANKS {
        return Err(field("pcrSelect.count", count));
    }
    let selections = (0..count).map(|_| selection(reader)).collect::<Result<_, _>>()?;
    let pcr_digest = reader.tpm2b().map_err(short(WHAT))?;
    match reader.rest().len() {
        0 => Ok(QuoteInfo { selections, pcr_digest }),
        left => Err(StructureError::LeftOver { what: WHAT, left }),
    }
}

fn selection(reader: &mut Reader<'_>) -> Result<QuotedBank, StructureError> {
    let bank = AlgorithmId(reader.be_u16().map_err(short(WHAT))?);
    let size = reader.u8().map_err(short(WHAT))?;
    if !(1..=MAX_SELECT).contains(&size) {
        return Err(field("sizeofSelect", size));
    }
    let bits = reader.bytes(size.into()).map_err(short(WHAT))?;
    // Bit n of byte m is PCR 8m+n.
    let mask = bits.iter().rev().fold(0, |mask: u32, byte| mask << 8 | u32::from(*byte));
    if mask >> PCR_COUNT != 0 {
        return Err(field("pcrSelect", mask));
    }
    Ok(QuotedBank { bank, mask })
}
