//! Structures made by hand, for tests.

/// A `TPMS_ATTEST` of a quote, every field of which a test may bend.
#[derive(Debug, Clone)]
pub(crate) struct Quote {
    pub(crate) magic: u32,
    pub(crate) kind: u16,
    pub(crate) signer: Vec<u8>,
    pub(crate) nonce: Vec<u8>,
    pub(crate) clock: (u64, u32, u32, u8),
    pub(crate) firmware: u64,
    /// Bank and bits, as they are marshaled.
    pub(crate) banks: Vec<(u16, Vec<u8>)>,
    pub(crate) digest: Vec<u8>,
}

impl Default for Quote {
    fn default() -> Self {
        Self {
            magic: 0xff54_4347,
            kind: 0x8018,
            signer: vec![0, 0x0b, 7],
            nonce: vec![1, 2],
            clock: (1000, 3, 2, 1),
            firmware: 0x2019_1023_0016_3636,
            banks: vec![(0x000b, vec![3, 0, 0])],
            digest: vec![9; 32],
        }
    }
}

impl Quote {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (clock, resets, restarts, safe) = self.clock;
        let mut out = [&self.magic.to_be_bytes()[..], &self.kind.to_be_bytes()].concat();
        out.extend(sized(&self.signer));
        out.extend(sized(&self.nonce));
        out.extend(clock.to_be_bytes());
        out.extend(resets.to_be_bytes());
        out.extend(restarts.to_be_bytes());
        out.push(safe);
        out.extend(self.firmware.to_be_bytes());
        out.extend((self.banks.len() as u32).to_be_bytes());
        for (bank, bits) in &self.banks {
            out.extend(bank.to_be_bytes());
            out.push(bits.len() as u8);
            out.extend(bits);
        }
        out.extend(sized(&self.digest));
        out
    }
}

/// A `TPM2B`.
pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// A `TPMT_SIGNATURE` of one part (RSA) or two (ECDSA).
pub(crate) fn signature(scheme: u16, hash: u16, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = [scheme.to_be_bytes(), hash.to_be_bytes()].concat();
    out.extend(parts.iter().flat_map(|part| sized(part)));
    out
}
