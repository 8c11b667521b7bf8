//! The two places for a Raspberry Pi's firmware on a boot partition, and the sector that
//! says which one the VideoCore starts.
//!
//! The firmware (TF-A with OP-TEE and U-Boot in it, a "stub" to the VideoCore) is loaded
//! before anything of ours runs, so nobody of ours can choose it then. `config.txt` includes
//! [`SWITCH_FILE`], which has one line of meaning and is one sector long: written over where
//! it lies, it names one file or the other, whenever power is cut. An update that brings
//! firmware writes the file that is not named, then the sector.
//!
//! Nothing here is trusted: what was started is measured into PCR 0.

use std::fmt;

use serde::Serialize;

use crate::fip::FipError;
use crate::manifest::Firmware;

/// Name of the file that says which stub is started. It has [`SWITCH_LEN`] bytes.
/// `config.txt` includes it (Raspberry Pi documentation, "config.txt", `include`).
pub const SWITCH_FILE: &str = "firmware.txt";
/// Bytes of that file: a sector, which a disk writes whole or not at all.
pub const SWITCH_LEN: usize = 512;
/// Bytes of BL1 in front of the FIP (TF-A, plat/rpi/rpi3/include/platform_def.h:
/// `PLAT_RPI3_FIP_BASE`). U-Boot's configuration says the same:
/// `CONFIG_MEASURE_FIP_BL1_SIZE`.
pub const BL1_LEN: usize = 0x2_0000;
/// The most bytes that TF-A reads of the FIP (`PLAT_RPI3_FIP_MAX_SIZE`;
/// `CONFIG_MEASURE_FIP_MAX_SIZE`).
pub const FIP_MAX: usize = 0x1e_0000;
/// Bytes of a stub's file: all that there is room for in memory. What follows the FIP is
/// zeros.
pub const STUB_LEN: usize = BL1_LEN + FIP_MAX;

/// One of the two places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stub {
    /// What the image came with.
    #[default]
    A,
    /// Empty on a new card.
    B,
}

impl Stub {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Name of its file. A card without [`SWITCH_FILE`] has the first one alone, which is
    /// the VideoCore's own choice.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::A => "armstub8.bin",
            Self::B => "armstub8-b.bin",
        }
    }

    /// The sector that names it.
    #[must_use]
    pub fn encode(self) -> [u8; SWITCH_LEN] {
        let text = format!(
            "# The firmware that is started: {} or {}.\narmstub={}\n",
            Self::A.file(),
            Self::B.file(),
            self.file()
        );
        let mut sector = [b'\n'; SWITCH_LEN];
        for (to, from) in sector.iter_mut().zip(text.bytes()) {
            *to = from;
        }
        sector
    }

    /// Which one a sector names; `None` for one that [`encode`](Self::encode) did not write.
    #[must_use]
    pub fn decode(sector: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|stub| stub.encode() == sector)
    }
}

impl fmt::Display for Stub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.file())
    }
}

/// A stub at its full length; `None` if it is longer than there is room for.
#[must_use]
pub fn padded(stub: &[u8]) -> Option<Vec<u8>> {
    (stub.len() <= STUB_LEN).then(|| {
        let mut whole = stub.to_vec();
        whole.resize(STUB_LEN, 0);
        whole
    })
}

/// What U-Boot measures of a stub.
///
/// # Errors
/// [`FipError`], also for bytes that there is no room for.
pub fn measured(stub: &[u8]) -> Result<Firmware, FipError> {
    if stub.len() > STUB_LEN {
        return Err(FipError::Endless);
    }
    Firmware::of_armstub(stub, BL1_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_names_one_of_two() {
        for stub in Stub::ALL {
            let sector = stub.encode();
            assert_eq!(Stub::decode(&sector), Some(stub));
            let text = String::from_utf8(sector.to_vec()).unwrap();
            let said: Vec<_> =
                text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
            assert_eq!(said, [format!("armstub={stub}")]);
            // The firmware reads 98 characters of a line and no more.
            assert!(text.lines().all(|line| line.len() <= 98) && text.ends_with('\n'));
            assert_eq!(stub.other().other(), stub);
        }
        assert_ne!(Stub::A.encode(), Stub::B.encode());
    }

    #[test]
    fn a_changed_sector_names_none() {
        for at in 0..SWITCH_LEN {
            let mut sector = Stub::B.encode();
            sector[at] ^= 1;
            assert_eq!(Stub::decode(&sector), None, "byte {at}");
        }
        assert_eq!(Stub::decode(&Stub::A.encode()[..511]), None);
        assert_eq!(Stub::decode(b""), None);
    }

    #[test]
    fn a_stub_has_one_length() {
        assert_eq!(padded(b"BL1").unwrap().len(), STUB_LEN);
        assert!(padded(&vec![1; STUB_LEN]).is_some(), "premise");
        assert!(padded(&vec![1; STUB_LEN + 1]).is_none());
        assert_eq!(measured(&vec![0; STUB_LEN + 1]).unwrap_err(), FipError::Endless);
        assert_eq!(measured(b"short").unwrap_err(), FipError::None);
    }
}
