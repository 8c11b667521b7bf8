//! TF-A's firmware image package (FIP): what BL2 loads, and U-Boot measures.
//!
//! Format: TF-A's "Firmware Design", "Firmware Image Package (FIP)". A table of
//! contents (a header of 16 bytes, an entry of 40 bytes for each image, an end
//! marker), then the images. All numbers are little-endian.

use crate::reader::{Reader, Short};

/// The header's first four bytes.
const NAME: u32 = 0xaa64_0001;
/// Most images in a package: TF-A knows fewer than forty.
pub const MAX_IMAGES: usize = 64;

/// The UUIDs (as the bytes stand in a package) and what they are.
const NAMES: [([u8; 16], &str); 6] = [
    (0x5ff9_ec0b_4d22_3e4d_a544_c39d_81c7_3f0a_u128.to_be_bytes(), "BL2"),
    (0x47d4_086d_4cfe_9846_9b95_2950_cbbd_5a00_u128.to_be_bytes(), "BL31"),
    (0x05d0_e189_53dc_1347_8d2b_500a_4b7a_3e38_u128.to_be_bytes(), "BL32"),
    (0x0b70_c29b_2a5a_7840_9f65_0a56_8273_8288_u128.to_be_bytes(), "BL32 extra 1"),
    (0x8ea8_7bb1_cfa2_3f4d_85fd_e7bb_a502_20d9_u128.to_be_bytes(), "BL32 extra 2"),
    (0xd6d0_eea7_fcea_d54b_9782_9934_f234_b6e4_u128.to_be_bytes(), "BL33"),
];

/// Bytes that are no package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FipError {
    /// Something else.
    #[error("this is no firmware image package (FIP)")]
    None,
    /// The table of contents goes on behind the end.
    #[error("the package's table of contents has no end, or more than {MAX_IMAGES} images")]
    Endless,
    /// An image is not wholly in the package.
    #[error("image {0} of the package is not wholly within it")]
    Outside(usize),
}

/// One image of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FipImage<'a> {
    /// What it is, in the order of bytes of the package.
    pub uuid: [u8; 16],
    /// Where it begins, in bytes from the beginning of the package.
    pub offset: usize,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl FipImage<'_> {
    /// `BL31` and the like; the UUID of an image that is not known.
    #[must_use]
    pub fn name(&self) -> String {
        match NAMES.iter().find(|(uuid, _)| *uuid == self.uuid) {
            Some((_, name)) => (*name).to_owned(),
            None => {
                let hex = hex::encode(self.uuid);
                let ranges = [0..8, 8..12, 12..16, 16..20, 20..32];
                ranges.map(|part| hex.get(part).unwrap_or_default().to_owned()).join("-")
            }
        }
    }
}

/// A package, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fip<'a> {
    /// The table of contents with its end marker.
    pub table: &'a [u8],
    /// The images, in the table's order.
    pub images: Vec<FipImage<'a>>,
}

impl<'a> Fip<'a> {
    /// Reads a package. What follows the last image is not looked at.
    ///
    /// # Errors
    /// [`FipError`]; nothing is allocated by what the bytes claim.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FipError> {
        let mut reader = Reader::new(bytes);
        let head = |r: &mut Reader<'_>| Ok((r.u32()?, r.u32()?, r.u64()?));
        match head(&mut reader) {
            Ok((NAME, _, _)) => {}
            Ok(_) | Err(Short) => return Err(FipError::None),
        }
        let mut images = Vec::new();
        loop {
            let entry = |r: &mut Reader<'a>| {
                let uuid: [u8; 16] = r.bytes(16)?.try_into().map_err(|_| Short)?;
                Ok::<_, Short>((uuid, r.u64()?, r.u64()?, r.u64()?))
            };
            let (uuid, offset, size, _) = entry(&mut reader).map_err(|Short| FipError::Endless)?;
            if uuid == [0; 16] {
                break;
            }
            if images.len() == MAX_IMAGES {
                return Err(FipError::Endless);
            }
            let outside = FipError::Outside(images.len());
            let number = |n: u64| usize::try_from(n).map_err(|_| outside);
            let (start, size) = (number(offset)?, number(size)?);
            // Not in the table, as far as it was read.
            let end =
                start.checked_add(size).filter(|_| start >= reader.offset()).ok_or(outside)?;
            let bytes = bytes.get(start..end).ok_or(outside)?;
            images.push(FipImage { uuid, offset: start, bytes });
        }
        let table = bytes.get(..reader.offset()).ok_or(FipError::Endless)?;
        Ok(Self { table, images })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A package of these images.
    pub(crate) fn package(images: &[([u8; 16], &[u8])]) -> Vec<u8> {
        let mut offset = 16 + 40 * (images.len() + 1);
        let mut table = [NAME.to_le_bytes(), 0x1234_5678_u32.to_le_bytes()].concat();
        table.extend([0; 8]);
        let mut content = Vec::new();
        for (uuid, bytes) in images.iter().chain([&([0; 16], &[][..])]) {
            table.extend(uuid);
            for word in [offset, bytes.len(), 0] {
                table.extend((word as u64).to_le_bytes());
            }
            offset += bytes.len();
            content.extend(*bytes);
        }
        [table, content].concat()
    }

    fn uuid(name: &str) -> [u8; 16] {
        NAMES.iter().find(|(_, n)| *n == name).unwrap().0
    }

    #[test]
    fn images_come_in_order_and_by_name() {
        let bytes =
            package(&[(uuid("BL31"), b"el3"), ([0x1f; 16], b""), (uuid("BL33"), b"u-boot")]);
        let fip = Fip::parse(&bytes).unwrap();
        let all: Vec<_> = fip.images.iter().map(|i| (i.name(), i.bytes)).collect();
        let unknown = "1f1f1f1f-1f1f-1f1f-1f1f-1f1f1f1f1f1f";
        let want: [(&str, &[u8]); 3] = [("BL31", b"el3"), (unknown, b""), ("BL33", b"u-boot")];
        assert_eq!(all, want.map(|(name, bytes)| (name.to_owned(), bytes)));
        assert_eq!(fip.table, &bytes[..16 + 4 * 40]);
        // Whatever lies behind, as in memory.
        let more = [bytes.as_slice(), &[0xee; 100]].concat();
        assert_eq!(Fip::parse(&more).unwrap(), fip);
    }

    #[test]
    fn what_is_cut_or_lies_is_refused() {
        let good = package(&[(uuid("BL33"), b"u-boot")]);
        for cut in 0..good.len() {
            Fip::parse(&good[..cut]).unwrap_err();
        }
        let table = good.len() as u64 - 6;
        let cases = [
            (table, 7),
            (table + 7, 0),
            (16 + 39, 1),
            (0, 1),
            (table, u64::MAX),
            (u64::MAX, 1),
            ((1 << 32) + table, 1),
        ];
        for (offset, size) in cases {
            let mut bad = good.clone();
            bad[32..40].copy_from_slice(&offset.to_le_bytes());
            bad[40..48].copy_from_slice(&size.to_le_bytes());
            assert_eq!(Fip::parse(&bad), Err(FipError::Outside(0)), "{offset} {size}");
        }
        let many = vec![([1; 16], &b""[..]); MAX_IMAGES + 1];
        assert_eq!(Fip::parse(&package(&many)), Err(FipError::Endless));
        assert_eq!(Fip::parse(&package(&many[1..])).unwrap().images.len(), MAX_IMAGES);
        assert_eq!(Fip::parse(&[0; 64]), Err(FipError::None));
    }
}
