//! The FIT: kernel, device tree, initramfs and command line under one
//! signature, in U-Boot's flattened image tree.
//!
//! The source (`.its`) is made by a pure function of the parts; `mkimage` of
//! the same U-Boot build packs and signs it. The hashes of the three images and
//! the configuration node with the command line are what the signature covers
//! (U-Boot, doc/usage/fit/signature.rst).

use std::io;
use std::path::{Path, PathBuf};

use super::fdt::{Fdt, FdtError};
use super::tool::{Tool, ToolError};
use crate::artifacts::KeyDir;
use crate::keys::{Role, openssl_conf};

/// The one configuration. U-Boot takes the default one.
pub const CONFIGURATION: &str = "conf-1";

/// Where in the board's memory U-Boot puts what it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Where the kernel is unpacked to and entered. Multiple of 2 MiB (Linux,
    /// Documentation/arch/arm64/booting.rst).
    pub kernel: u32,
    /// Where the device tree is copied to before it is fixed up.
    pub fdt: u32,
}

/// The largest FIT that is read into memory, in bytes.
pub const MAX_SIZE: u64 = 64 << 20;

/// Why a FIT could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `mkimage` failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The bytes are no device tree.
    #[error("boot.itb is no FIT: {0}")]
    NoTree(#[from] FdtError),
    /// The tree is no FIT of ours.
    #[error("boot.itb is no FIT of msec-boot: {0} is missing")]
    Missing(&'static str),
}

/// What a FIT holds, as it is stored: the very bytes that U-Boot measures.
///
/// From [`Contents::read`] they are not verified; `fit_check_sign` does that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The kernel, gzip-compressed.
    pub kernel: Vec<u8>,
    /// The device tree.
    pub fdt: Vec<u8>,
    /// The initramfs, compressed.
    pub ramdisk: Vec<u8>,
    /// The command line, without NUL.
    pub command_line: String,
    /// A name for people.
    pub description: String,
    /// Where the board has room.
    pub places: Places,
}

impl Contents {
    /// Takes a FIT apart. Nothing is verified.
    ///
    /// # Errors
    /// If the bytes are no FIT, or one without our parts.
    pub fn read(bytes: &[u8]) -> Result<Self, FitError> {
        let fit = Fdt::new(bytes)?;
        let data = |path, what| {
            fit.property(path, "data").map(<[u8]>::to_vec).ok_or(FitError::Missing(what))
        };
        let conf = format!("/configurations/{CONFIGURATION}");
        if fit.text("/configurations", "default") != Some(CONFIGURATION) {
            return Err(FitError::Missing("the default configuration conf-1"));
        }
        for part in ["kernel", "fdt", "ramdisk"] {
            if fit.text(&conf, part) != Some(part) {
                return Err(FitError::Missing("a part of the configuration conf-1"));
            }
        }
        let place = |path| {
            let bytes = fit.property(path, "load").and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_be_bytes).ok_or(FitError::Missing("a load address"))
        };
        Ok(Self {
            places: Places { kernel: place("/images/kernel")?, fdt: place("/images/fdt")? },
            kernel: data("/images/kernel", "the kernel")?,
            fdt: data("/images/fdt", "the device tree")?,
            ramdisk: data("/images/ramdisk", "the initramfs")?,
            command_line: fit
                .text(&conf, "bootargs")
                .ok_or(FitError::Missing("the command line"))?
                .to_owned(),
            description: fit.text("/", "description").unwrap_or_default().to_owned(),
        })
    }
}

/// The source of a FIT whose parts lie beside it as `kernel`, `fdt` and
/// `ramdisk`, with a node for the signature if it is `signed`.
pub fn source(description: &str, command_line: &str, places: Places, signed: bool) -> String {
    let image = |name: &str, kind: &str, compression: &str, more: &str| {
        format!(
            "\t\t{name} {{\n\
             \t\t\tdescription = \"{name}\";\n\
             \t\t\tdata = /incbin/(\"{name}\");\n\
             \t\t\ttype = \"{kind}\";\n\
             \t\t\tarch = \"arm64\";\n\
             \t\t\tos = \"linux\";\n\
             \t\t\tcompression = \"{compression}\";\n\
             {more}\
             \t\t\thash-1 {{ algo = \"sha256\"; }};\n\
             \t\t}};\n"
        )
    };
    let Places { kernel, fdt } = places;
    let kernel_at = format!("\t\t\tload = <0x{kernel:08x}>;\n\t\t\tentry = <0x{kernel:08x}>;\n");
    let signature = format!(
        "\t\t\tsignature-1 {{\n\
         \t\t\t\talgo = \"sha256,rsa3072\";\n\
         \t\t\t\tkey-name-hint = \"{}\";\n\
         \t\t\t\tsign-images = \"kernel\", \"fdt\", \"ramdisk\";\n\
         \t\t\t}};\n",
        KeyDir::HINT
    );
    let signature = if signed { signature.as_str() } else { "" };
    let fdt_at = format!("\t\t\tload = <0x{fdt:08x}>;\n");
    format!(
        "/dts-v1/;\n\
         / {{\n\
         \tdescription = \"{description}\";\n\
         \t#address-cells = <1>;\n\
         \timages {{\n\
         {kernel}{fdt}{ramdisk}\
         \t}};\n\
         \tconfigurations {{\n\
         \t\tdefault = \"{CONFIGURATION}\";\n\
         \t\t{CONFIGURATION} {{\n\
         \t\t\tkernel = \"kernel\";\n\
         \t\t\tfdt = \"fdt\";\n\
         \t\t\tramdisk = \"ramdisk\";\n\
         \t\t\tbootargs = \"{command_line}\";\n\
         {signature}\
         \t\t}};\n\
         \t}};\n\
         }};\n",
        description = quoted(description),
        kernel = image("kernel", "kernel", "gzip", &kernel_at),
        fdt = image("fdt", "flat_dt", "none", &fdt_at),
        ramdisk = image("ramdisk", "ramdisk", "none", ""),
        command_line = quoted(command_line),
    )
}

/// A text inside the quotes of a device tree source
/// (Devicetree Specification 0.4, 6.3: C's escapes).
fn quoted(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'"' => "\\\"".to_owned(),
            b'\\' => "\\\\".to_owned(),
            0x20..=0x7e => char::from(byte).to_string(),
            other => format!("\\x{other:02x}"),
        })
        .collect()
}

/// Packs a FIT in a scratch directory, signs it if there are keys, and returns
/// its bytes.
///
/// # Errors
/// If a file cannot be written or `mkimage` fails.
pub fn pack(
    contents: &Contents,
    mkimage: &Path,
    keys: Option<&KeyDir>,
) -> Result<Vec<u8>, FitError> {
    let scratch = tempfile::tempdir().map_err(file_error(&std::env::temp_dir()))?;
    let put = |name: &str, bytes: &[u8]| {
        let path = scratch.path().join(name);
        std::fs::write(&path, bytes).map_err(file_error(&path))
    };
    put("kernel", &contents.kernel)?;
    put("fdt", &contents.fdt)?;
    put("ramdisk", &contents.ramdisk)?;
    let Contents { description, command_line, places, .. } = contents;
    let its = source(description, command_line, *places, keys.is_some());
    put("boot.its", its.as_bytes())?;
    let mut tool =
        Tool::new(mkimage, "pack and sign the FIT").in_dir(scratch.path()).args(["-f", "boot.its"]);
    if let Some(keys) = keys {
        tool = tool.arg("-k").arg(keys.dir()).arg("-r");
        if let Some(conf) = openssl_conf(keys, Role::Fit) {
            tool = tool.env("OPENSSL_CONF", conf);
        }
    }
    tool.arg("boot.itb").run()?;
    let path = scratch.path().join("boot.itb");
    std::fs::read(&path).map_err(file_error(&path))
}

/// Lets U-Boot's own checker verify a FIT against a control DTB.
///
/// # Errors
/// If the signature is missing or wrong, or the checker cannot run.
pub fn check_signature(
    fit: &[u8],
    fit_check_sign: &Path,
    control_dtb: &Path,
) -> Result<(), FitError> {
    let scratch = tempfile::tempdir().map_err(file_error(&std::env::temp_dir()))?;
    let path = scratch.path().join("boot.itb");
    std::fs::write(&path, fit).map_err(file_error(&path))?;
    Tool::new(fit_check_sign, "verify the signature of boot.itb")
        .arg("-f")
        .arg(&path)
        .arg("-k")
        .arg(control_dtb)
        .args(["-c", CONFIGURATION])
        .run()?;
    Ok(())
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> FitError + use<> {
    let path = path.to_owned();
    move |source| FitError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACES: Places = Places { kernel: 0x0200_0000, fdt: 0x0700_0000 };

    #[test]
    fn the_source_signs_every_part_and_carries_the_command_line() {
        let its = source("msec-rpi3", "console=ttyAMA0,115200 panic=10", PLACES, true);
        for line in [
            "bootargs = \"console=ttyAMA0,115200 panic=10\";",
            "sign-images = \"kernel\", \"fdt\", \"ramdisk\";",
            "algo = \"sha256,rsa3072\";",
            "key-name-hint = \"fit\";",
            "default = \"conf-1\";",
            "compression = \"gzip\";\n\t\t\tload = <0x02000000>;\n\t\t\tentry = <0x02000000>;",
        ] {
            assert!(its.contains(line), "{line} is missing in\n{its}");
        }
        assert_eq!(its.matches("hash-1 { algo = \"sha256\"; };").count(), 3);
        assert_eq!(its.matches("/incbin/").count(), 3);
        assert_eq!(its.matches('{').count(), its.matches('}').count());
    }

    #[test]
    fn an_unsigned_source_has_no_signature_and_nothing_else_less() {
        let (with, without) =
            (source("x", "quiet", PLACES, true), source("x", "quiet", PLACES, false));
        assert!(!without.contains("signature"));
        assert_eq!(with.lines().count(), without.lines().count() + 5);
    }

    #[test]
    fn a_command_line_cannot_leave_its_quotes() {
        let its = source("x", "a=\"b\"; }; evil { \\ \n", PLACES, true);
        assert!(its.contains("bootargs = \"a=\\\"b\\\"; }; evil { \\\\ \\x0a\";"), "{its}");
    }

    #[test]
    fn what_is_no_fit_is_refused() {
        let error = Contents::read(b"not a fit").unwrap_err().to_string();
        assert_eq!(error, "boot.itb is no FIT: it has no device tree header");
    }
}
