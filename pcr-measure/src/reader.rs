//! A cursor over foreign bytes that never goes past their end. Event logs are
//! little-endian; what a TPM marshals is big-endian ([`Reader::be_u16`], ...).

/// The bytes ended before the field did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short;

/// What is left of the bytes, and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, offset: 0 }
    }

    /// Offset of the next byte.
    pub(crate) const fn offset(&self) -> usize {
        self.offset
    }

    /// All that is left, without taking it.
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Short)?;
        self.rest = rest;
        self.offset += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        self.bytes(N)?.try_into().map_err(|_| Short)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    /// A field whose length stands before it. The length is compared with what
    /// is there; nothing is allocated by it.
    pub(crate) fn sized(&mut self, size: u32) -> Result<&'a [u8], Short> {
        self.bytes(usize::try_from(size).map_err(|_| Short)?)
    }

    pub(crate) fn be_u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn be_u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn be_u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_be_bytes)
    }

    /// A `TPM2B`: a size of 16 bits, then as many bytes (TPM 2.0 Library 1.59,
    /// Part 2, 10.4).
    pub(crate) fn tpm2b(&mut self) -> Result<&'a [u8], Short> {
        let size = self.be_u16()?;
        self.bytes(size.into())
    }
}
