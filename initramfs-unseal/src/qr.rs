//! The recovery key as a QR code that a phone reads from a serial terminal.
//!
//! Light modules are printed, dark ones left blank: on a dark terminal the code
//! then has the polarity that every reader takes. The rows are the secret in
//! another alphabet; whoever gets them wipes them.

use crate::recovery::RecoveryKey;
use qrcodegen_no_heap::{DataTooLong, QrCode, QrCodeEcc, Version};
use serde::Deserialize;
use zeroize::Zeroizing;

/// How the code is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Qr {
    /// Half blocks of Unicode, two modules to a character, white on black: 41
    /// columns and 21 lines. What terminals of today and Linux' own show.
    #[default]
    Utf8,
    /// `##` for a light module: 78 columns and 39 lines of plain ASCII.
    Ascii,
    /// None is drawn.
    None,
}

/// The smallest version whose byte mode holds a recovery key's 71 characters (78
/// at level L; ISO/IEC 18004:2015, table 7): 33 modules square. Larger ones would
/// not fit 24 lines.
const VERSION: Version = Version::new(4);
/// Light modules around the code (ISO/IEC 18004:2015, 6.3.8).
const QUIET: i32 = 4;
/// One less, so that two columns to a module fit 80 columns.
const QUIET_ASCII: i32 = 3;
/// White on black whatever the terminal's own colours (ECMA-48, 8.3.117, and the
/// bright colours that every terminal adds), and back.
const INK: &str = "\x1b[40;97m";
const RESET: &str = "\x1b[0m";

/// The lines of the code, each with its end. Wiped when dropped.
pub type Rows = Vec<Zeroizing<String>>;

/// Draws `key`. Nothing for [`Qr::None`].
///
/// The library keeps all of the code, its error correction included, in the two
/// buffers given here, which are wiped. What it leaves behind are single bytes in
/// registers and on the stack. What the kernel keeps of the printed lines, the
/// terminals' buffers, is its own, as with the key in letters.
///
/// # Errors
/// None in practice: a recovery key fits.
pub fn rows(key: &RecoveryKey, style: Qr) -> Result<Rows, DataTooLong> {
    if style == Qr::None {
        return Ok(Rows::new());
    }
    let mut work = Zeroizing::new(vec![0; VERSION.buffer_len()]);
    let mut out = Zeroizing::new(vec![0; VERSION.buffer_len()]);
    let text = key.expose().as_bytes();
    // The text itself, in lower case: what a phone pastes is what cryptsetup takes.
    // The alphanumeric mode would be smaller and has capitals alone.
    if let Some(start) = work.get_mut(..text.len()) {
        start.copy_from_slice(text);
    }
    let code = QrCode::encode_binary(
        &mut work,
        text.len(),
        &mut out,
        QrCodeEcc::Low,
        VERSION,
        VERSION,
        None,
        true,
    )?;
    // Everything around the code reads as light.
    let light = |x, y| !code.get_module(x, y);
    let rows = match style {
        Qr::Utf8 => half_blocks(code.size(), light),
        _ => two_columns(code.size(), light),
    };
    Ok(rows)
}

fn half_blocks(size: i32, light: impl Fn(i32, i32) -> bool) -> Rows {
    let end = size + QUIET;
    let row = |y: i32| {
        // Reserved whole: growing would leave copies behind. A block has 3 bytes.
        let mut row = Zeroizing::new(String::with_capacity(256));
        row.push_str(INK);
        for x in -QUIET..end {
            row.push(match (light(x, y), y + 1 < end && light(x, y + 1)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            });
        }
        row.push_str(RESET);
        row.push('\n');
        row
    };
    (-QUIET..end).step_by(2).map(row).collect()
}

fn two_columns(size: i32, light: impl Fn(i32, i32) -> bool) -> Rows {
    let across = || -QUIET_ASCII..size + QUIET_ASCII;
    let row = |y| {
        let mut row = Zeroizing::new(String::with_capacity(128));
        across().for_each(|x| row.push_str(if light(x, y) { "##" } else { "  " }));
        row.push('\n');
        row
    };
    across().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn key(seed: u8) -> RecoveryKey {
        let bytes: Vec<u8> = (0..32u8).map(|i| seed ^ i.wrapping_mul(37)).collect();
        RecoveryKey::from_secret(&Secret::from_slice(&bytes).unwrap())
    }

    /// What a camera sees of the printed lines: true for a lit pixel.
    fn pixels(rows: &Rows) -> Vec<Vec<bool>> {
        let mut seen = Vec::new();
        for row in rows {
            let row = row.strip_suffix('\n').unwrap();
            match row.strip_prefix(INK).and_then(|row| row.strip_suffix(RESET)) {
                Some(row) => {
                    seen.push(row.chars().map(|c| matches!(c, '█' | '▀')).collect());
                    seen.push(row.chars().map(|c| matches!(c, '█' | '▄')).collect());
                }
                None => seen.push(row.chars().step_by(2).map(|c| c == '#').collect()),
            }
        }
        seen
    }

    /// Reads the lines with an independent decoder, each module eight pixels wide,
    /// on a dark screen.
    fn decoded(rows: &Rows) -> String {
        const SCALE: usize = 8;
        const MARGIN: usize = 4 * SCALE;
        let seen = pixels(rows);
        let (width, height) = (seen[0].len() * SCALE, seen.len() * SCALE);
        let lit = |x: usize, y: usize| {
            let (x, y) = (x.checked_sub(MARGIN)?, y.checked_sub(MARGIN)?);
            seen.get(y / SCALE)?.get(x / SCALE).copied()
        };
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(
            width + 2 * MARGIN,
            height + 2 * MARGIN,
            |x, y| if lit(x, y).unwrap_or(false) { 230 } else { 10 },
        );
        let grids = image.detect_grids();
        assert_eq!(grids.len(), 1, "one code is seen");
        grids[0].decode().unwrap().1
    }

    #[test]
    fn another_decoder_reads_the_key_from_the_console() {
        for seed in [0, 1, 0x5a, 0xff] {
            for style in [Qr::Utf8, Qr::Ascii] {
                let key = key(seed);
                assert_eq!(decoded(&rows(&key, style).unwrap()), key.expose(), "{style:?} {seed}");
            }
        }
    }

    #[test]
    fn it_fits_the_smallest_terminal_in_columns_and_half_blocks_also_in_lines() {
        let columns = |rows: &Rows| pixels(rows)[0].len();
        let utf8 = rows(&key(3), Qr::Utf8).unwrap();
        assert_eq!((utf8.len(), columns(&utf8)), (21, 41));
        let ascii = rows(&key(3), Qr::Ascii).unwrap();
        assert_eq!((ascii.len(), columns(&ascii) * 2), (39, 78));
        assert!(ascii.iter().all(|row| row.is_ascii()));
        assert!(rows(&key(3), Qr::None).unwrap().is_empty());
    }

    #[test]
    fn no_line_grows_while_it_is_drawn() {
        for row in rows(&key(9), Qr::Utf8).unwrap() {
            assert_eq!(row.capacity(), 256, "{} bytes", row.len());
        }
        for row in rows(&key(9), Qr::Ascii).unwrap() {
            assert_eq!(row.capacity(), 128, "{} bytes", row.len());
        }
    }
}
