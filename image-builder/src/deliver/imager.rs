//! The list that Raspberry Pi Imager takes as a custom repository (`rpi-imager --repo`;
//! raspberrypi/rpi-imager, doc/json-schema/os-list-schema.json), with one image.

use serde_json::{Value, json};

use crate::recipe::Board;

/// Why an image cannot be offered so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImagerError {
    /// No Raspberry Pi.
    #[error("Raspberry Pi Imager writes no images for {0}: leave --base-url out")]
    Board(Board),
    /// Not where a download can be.
    #[error(
        "`{0}` is no address to download from: http://… or https://…, without spaces and quotes"
    )]
    BaseUrl(String),
    /// No date.
    #[error("`{0}` is no date: YYYY-MM-DD")]
    Date(String),
}

/// Where images are downloaded from: an address without the file's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl(String);

impl std::str::FromStr for BaseUrl {
    type Err = ImagerError;

    fn from_str(text: &str) -> Result<Self, ImagerError> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let plain =
            text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"'<>\\?#".contains(&byte));
        match rest.map(|rest| rest.trim_end_matches('/')) {
            Some(host) if plain && !host.is_empty() => {
                Ok(Self(text.trim_end_matches('/').to_owned()))
            }
            _ => Err(ImagerError::BaseUrl(text.to_owned())),
        }
    }
}

/// A day, as ISO 8601 has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Date(String);

impl Default for Date {
    /// The date of every build ([`crate::image::tool::SOURCE_DATE_EPOCH`]).
    fn default() -> Self {
        Self("2026-01-01".to_owned())
    }
}

impl std::str::FromStr for Date {
    type Err = ImagerError;

    fn from_str(text: &str) -> Result<Self, ImagerError> {
        let mut parts = text.split('-');
        let mut part = |length: usize, most: u16| {
            let part = parts.next()?;
            let digits = part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit());
            let number = part.parse::<u16>().ok()?;
            (digits && (1..=most).contains(&number)).then_some(())
        };
        let good = part(4, 9999).and(part(2, 12)).and(part(2, 31)).is_some();
        if good && parts.next().is_none() {
            Ok(Self(text.to_owned()))
        } else {
            Err(ImagerError::Date(text.to_owned()))
        }
    }
}

/// A file that is downloaded, or comes out of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct File<'a> {
    pub(super) name: &'a str,
    pub(super) size: u64,
    pub(super) sha256: &'a str,
}

/// Imager's names of the boards that an image boots on.
pub(super) fn devices(board: Board) -> Result<&'static [&'static str], ImagerError> {
    match board {
        Board::Rpi3 => Ok(&["pi3-64bit"]),
        Board::Virt => Err(ImagerError::Board(board)),
    }
}

/// The list with an image, which may be downloaded compressed.
pub(super) fn list(
    name: &str,
    board: Board,
    base: &BaseUrl,
    date: &Date,
    image: File<'_>,
    download: File<'_>,
) -> Result<Value, ImagerError> {
    Ok(json!({
        "os_list": [{
            "name": name,
            "description": format!("{name}: measured boot and a root that the TPM unlocks"),
            // The schema wants one.
            "icon": "",
            "url": format!("{}/{}", base.0, download.name),
            "extract_size": image.size,
            "extract_sha256": image.sha256,
            "image_download_size": download.size,
            "image_download_sha256": download.sha256,
            "release_date": date.0,
            "devices": devices(board)?,
            "architecture": "armv8",
            // Imager would change files that are signed or measured.
            "init_format": "none",
        }],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_dates_are_taken() {
        let url: BaseUrl = "https://example.org/images//".parse().unwrap();
        assert_eq!(url.0, "https://example.org/images");
        for text in
            ["", "https://", "http:///", "ftp://a/b", "/srv", "https://a/ b", "https://a/?x"]
        {
            text.parse::<BaseUrl>().unwrap_err();
        }
        "2026-11-28".parse::<Date>().unwrap();
        for text in ["", "2026-13-01", "2026-1-01", "2026-01-00", "2026-01-01-01", "26-01-01"] {
            text.parse::<Date>().unwrap_err();
        }
    }

    #[test]
    fn the_list_names_what_is_downloaded_and_what_comes_out_of_it() {
        let base = "https://example.org/i".parse().unwrap();
        let image = File { name: "a.img", size: 10, sha256: "aa" };
        let download = File { name: "a.img.xz", size: 5, sha256: "bb" };
        let list = |board| list("a", board, &base, &Date::default(), image, download);
        let entry = &list(Board::Rpi3).unwrap()["os_list"][0];
        assert_eq!(entry["url"], "https://example.org/i/a.img.xz");
        assert_eq!(
            (&entry["extract_size"], &entry["image_download_size"]),
            (&json!(10), &json!(5))
        );
        assert_eq!(entry["devices"], json!(["pi3-64bit"]));
        let error = list(Board::Virt).unwrap_err().to_string();
        assert!(error.contains("--base-url"), "{error}");
    }
}
