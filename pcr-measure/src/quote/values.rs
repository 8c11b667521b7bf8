//! PCR values as tpm2-tools dump them. Foreign bytes: a quote's digest confirms
//! them or does not.

use crate::digest::Digest;
use crate::eventlog::AlgorithmId;
use crate::pcr::{PCR_COUNT, PcrBank, PcrError, PcrIndex, PcrSelection};
use crate::reader::{Reader, Short};
use crate::structures::StructureError;

/// What errors call the `serialized` form.
const WHAT: &str = "file of tpm2_quote -o";

/// Sizes of tpm2-tss's C structures, in elements (tss2_tpm2_types.h).
const BANKS: u32 = 16; // TPM2_NUM_PCR_BANKS
const DIGESTS: u32 = 8; // of a TPML_DIGEST
const BUFFER: usize = 64; // of a TPM2B_DIGEST
const SELECT: usize = 4; // TPM2_PCR_SELECT_MAX

/// Writes values as `tpm2_quote -o` does ([`tools_values`] reads them).
///
/// # Errors
/// None in practice: what a bank holds it has a value of.
pub fn to_tools_values(banks: &[PcrBank]) -> Result<Vec<u8>, PcrError> {
    let mut out = count(banks.len());
    let mut digests: Vec<Digest> = Vec::new();
    for bank in banks {
        let selection = PcrSelection::new(bank.algorithm(), bank.iter().map(|(pcr, _)| pcr))?;
        out.extend(bank.algorithm().id().to_le_bytes());
        out.push(3); // sizeofSelect
        out.extend(selection.mask().to_le_bytes());
        out.push(0); // alignment
        digests.extend(bank.iter().map(|(_, value)| value));
    }
    // What is not used is zero: TPMS_PCR_SELECTION has 8 bytes, TPM2B_DIGEST 66.
    out.resize(4 + 8 * BANKS as usize, 0);
    let lists = digests.chunks(DIGESTS as usize);
    out.extend(count(lists.len()));
    for list in lists {
        out.extend(count(list.len()));
        let end = out.len() + DIGESTS as usize * (2 + BUFFER);
        for digest in list {
            let bytes = digest.as_bytes();
            out.extend(u16::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
            out.extend(bytes);
            out.resize(out.len() + BUFFER - bytes.len(), 0);
        }
        out.resize(end, 0);
    }
    Ok(out)
}

/// A count of the C structures.
fn count(length: usize) -> Vec<u8> {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes().to_vec()
}

/// Reads what `tpm2_quote -o` and `tpm2_pcrread -o -F serialized` write
/// (`pcr_fwrite_serialized` of tpm2-tools 5.7, lib/pcr.c): the memory of a
/// `TPML_PCR_SELECTION`, a count, and as many `TPML_DIGEST`, little-endian. Nothing
/// is verified.
///
/// # Errors
/// [`StructureError`]: it is something else, or a bank is unknown or there twice.
pub fn tools_values(bytes: &[u8]) -> Result<Vec<PcrBank>, StructureError> {
    let mut reader = Reader::new(bytes);
    let selections = selections(&mut reader)?;
    let digests = digests(&mut reader)?;
    if !reader.rest().is_empty() {
        return Err(StructureError::LeftOver { what: WHAT, left: reader.rest().len() });
    }
    let mut digests = digests.into_iter();
    let mut banks: Vec<PcrBank> = Vec::new();
    for (id, mask) in selections.into_iter().filter(|(_, mask)| *mask != 0) {
        let algorithm = AlgorithmId(id).known().ok_or_else(|| field("bank", id))?;
        if banks.iter().any(|bank| bank.algorithm() == algorithm) {
            return Err(field("doubled bank", id));
        }
        let mut bank = PcrBank::new(algorithm);
        for pcr in PcrIndex::all().filter(|pcr| mask & 1 << pcr.get() != 0) {
            let bytes = digests.next().ok_or(StructureError::Truncated(WHAT))?;
            set(&mut bank, pcr, bytes)?;
        }
        banks.push(bank);
    }
    match digests.count() {
        0 => Ok(banks),
        left => Err(field("superfluous digests", left as u64)),
    }
}

/// Reads what `tpm2_quote -o -F values` writes: the digests one behind the other,
/// in the order of `selections`. Nothing is verified.
///
/// # Errors
/// [`StructureError`] if there are more or fewer bytes.
pub fn concatenated_values(
    bytes: &[u8],
    selections: &[PcrSelection],
) -> Result<Vec<PcrBank>, StructureError> {
    const WHAT: &str = "file of PCR values";
    let mut reader = Reader::new(bytes);
    let mut banks = Vec::new();
    for selection in selections {
        let mut bank = PcrBank::new(selection.bank());
        for pcr in selection.iter() {
            let size = selection.bank().size();
            set(
                &mut bank,
                pcr,
                reader.bytes(size).map_err(|Short| StructureError::Truncated(WHAT))?,
            )?;
        }
        banks.push(bank);
    }
    match reader.rest().len() {
        0 => Ok(banks),
        left => Err(StructureError::LeftOver { what: WHAT, left }),
    }
}

fn set(bank: &mut PcrBank, pcr: PcrIndex, bytes: &[u8]) -> Result<(), StructureError> {
    let size = |_| field("digest size", bytes.len() as u64);
    let digest = Digest::new(bank.algorithm(), bytes).map_err(size)?;
    bank.set(pcr, digest).map_err(|_| field("bank", bank.algorithm().id()))
}

fn field(field: &'static str, value: impl Into<u64>) -> StructureError {
    StructureError::Field { what: WHAT, field, value: value.into() }
}

/// The selected banks: identifier and mask.
fn selections(reader: &mut Reader<'_>) -> Result<Vec<(u16, u32)>, StructureError> {
    let short = |Short| StructureError::Truncated(WHAT);
    let count = reader.u32().map_err(short)?;
    if !(1..=BANKS).contains(&count) {
        return Err(field("count of banks", count));
    }
    let mut found = Vec::new();
    for n in 0..BANKS {
        let id = reader.u16().map_err(short)?;
        let size = usize::from(reader.u8().map_err(short)?);
        let bits = reader.bytes(SELECT).map_err(short)?;
        reader.u8().map_err(short)?; // padding of the C structure
        if n >= count {
            continue; // unused
        }
        if size > SELECT {
            return Err(field("sizeofSelect", size as u64));
        }
        let bits = bits.iter().take(size).rev();
        let mask = bits.fold(0, |mask: u32, byte| mask << 8 | u32::from(*byte));
        if mask >> PCR_COUNT != 0 {
            return Err(field("pcrSelect", mask));
        }
        found.push((id, mask));
    }
    Ok(found)
}

/// The digests of every list, in order.
fn digests<'a>(reader: &mut Reader<'a>) -> Result<Vec<&'a [u8]>, StructureError> {
    let short = |Short| StructureError::Truncated(WHAT);
    let lists = reader.u32().map_err(short)?;
    let mut found = Vec::new();
    for _ in 0..lists {
        let count = reader.u32().map_err(short)?;
        if count > DIGESTS {
            return Err(field("count of digests", count));
        }
        for n in 0..DIGESTS {
            let size = usize::from(reader.u16().map_err(short)?);
            let buffer = reader.bytes(BUFFER).map_err(short)?;
            if n < count {
                found.push(buffer.get(..size).ok_or_else(|| field("digest size", size as u64))?);
            }
        }
    }
    Ok(found)
}
