//! `image-builder check`: what a recipe says, or what is wrong with it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use indicatif::BinaryBytes;
use serde::Serialize;

use super::{Format, Global, setting};
use crate::image::packages::lock_path;
use crate::recipe::{
    Binding, Console, Firmware, MIB, Recipe, RecipeError, SecureWorld, System, TpmBus,
};
use crate::sources::lock::Lock;

/// Reads a recipe and says what would be built, or what is wrong with it (exit code 1).
/// Nothing is built or fetched.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// The recipe
    #[arg(value_name = "RECIPE")]
    recipe: PathBuf,
}

/// A part of the card.
#[derive(Debug, Serialize)]
struct Part {
    name: &'static str,
    /// In bytes.
    start: u64,
    /// In bytes.
    size: u64,
}

/// What would be built.
#[derive(Debug, Serialize)]
struct Summary {
    image: String,
    board: &'static str,
    tpm: String,
    binding: String,
    chain: String,
    command_line: String,
    size: u64,
    parts: [Part; 3],
    system: String,
    hostname: String,
    packages: Vec<String>,
    /// How many the lock file has; none without one.
    locked: Option<usize>,
    users: Vec<String>,
    /// What to think of before it is built or leaves the lab.
    notes: Vec<String>,
}

pub(super) fn run(global: &Global, args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let checked = Recipe::load(&args.recipe).and_then(|recipe| {
        files_are_there(&recipe)?;
        Ok(recipe)
    });
    let json = global.format == Format::Json;
    match checked {
        Ok(recipe) => {
            let summary = summary(&recipe, &args.recipe);
            if json {
                setting::print_json(&serde_json::json!({
                    "schema": "msec-boot/check/1", "ok": true, "recipe": args.recipe,
                    "summary": summary,
                }))?;
            } else {
                setting::print(&format!("{}: ok\n{}", args.recipe.display(), text(&summary)))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ RecipeError::Read { .. }) => Err(error.into()),
        Err(error) => {
            if json {
                setting::print_json(&serde_json::json!({
                    "schema": "msec-boot/check/1", "ok": false, "recipe": args.recipe,
                    "error": error.to_string(),
                }))?;
            } else {
                eprintln!("image-builder: {error}");
            }
            Ok(ExitCode::from(1))
        }
    }
}

/// Files that a build would read later.
fn files_are_there(recipe: &Recipe) -> Result<(), RecipeError> {
    let policy = match &recipe.tpm.binding {
        Binding::Signed(signed) => signed.policy_key.as_deref(),
        Binding::Pcr => None,
    };
    let named = [
        ("key `policy_key` in [tpm]", policy),
        ("key `file` in [initramfs]", recipe.initramfs.file.as_deref()),
    ];
    for (key, path) in named {
        if let Some(path) = path {
            std::fs::File::open(path).map_err(|source| RecipeError::File {
                key,
                path: path.to_owned(),
                source,
            })?;
        }
    }
    Ok(())
}

fn summary(recipe: &Recipe, path: &Path) -> Summary {
    let disk = &recipe.disk;
    let mut notes = Vec::new();
    let mut note = |text: &str| notes.push(text.to_owned());
    let lock = std::fs::read_to_string(lock_path(path)).ok();
    let locked = lock.and_then(|text| Lock::parse(&text, &lock_path(path)).ok());
    let wanted = recipe.wanted_packages();
    match &locked {
        None => note("no lock file: run `image-builder recipe lock` on it before a build"),
        Some(lock) if wanted.iter().any(|name| lock.source(name.as_str()).is_err()) => {
            note("the lock file lacks a package: run `image-builder recipe lock` on it");
        }
        Some(_) => {}
    }
    let names: Vec<&str> = recipe.root.features().iter().map(|feature| feature.name()).collect();
    let names = if names.is_empty() { "nothing".into() } else { names.join(", ") };
    let system = match &recipe.root.system {
        System::Busybox(busybox) => {
            if busybox.console == Console::Shell {
                note("a root shell without a password on the serial console: for the lab only");
            }
            format!("busybox with {names}")
        }
        System::Debian(_) => {
            if recipe.nobody_gets_in() {
                note("no user has a key: nobody will be able to log in");
            }
            format!("Debian with {names}")
        }
    };
    for (development, what) in [
        (recipe.kernel.development, "a kernel"),
        (recipe.u_boot.development, "a U-Boot"),
        (recipe.components.op_tee_development, "an OP-TEE"),
    ] {
        if development {
            note(&format!("{what} for the lab"));
        }
    }
    if recipe.provisioning.recipient.is_none() {
        note("no [provisioning] recipient: the recovery key is shown once, and kept nowhere");
    }
    Summary {
        image: recipe.name.to_string(),
        board: recipe.board.name(),
        tpm: match recipe.bus() {
            TpmBus::I2c => "I2C".to_owned(),
            TpmBus::Mmio => "in memory".to_owned(),
            TpmBus::Spi(device) => format!("SPI ({device:?})"),
        },
        binding: match &recipe.tpm.binding {
            Binding::Pcr => "pcr".to_owned(),
            Binding::Signed(signed) => format!("signed, version {}", signed.rollback),
        },
        chain: match recipe.components.firmware {
            Firmware::TfA(SecureWorld::OpTee) => "TF-A, OP-TEE, U-Boot, Linux",
            Firmware::TfA(SecureWorld::None) => "TF-A, U-Boot, Linux",
            Firmware::UBoot => "U-Boot, Linux",
        }
        .to_owned(),
        command_line: recipe.kernel.command_line.to_string(),
        size: disk.size(),
        parts: [
            Part { name: "boot", start: disk.boot_start(), size: disk.boot_size() },
            Part {
                name: "reserve",
                start: disk.boot_start() + disk.boot_size(),
                size: u64::from(disk.reserve_mib()) * MIB,
            },
            Part { name: "root", start: disk.root_start(), size: disk.root_size() },
        ],
        system,
        hostname: recipe
            .root
            .hostname
            .as_ref()
            .map_or(recipe.name.to_string(), ToString::to_string),
        packages: wanted.iter().map(ToString::to_string).collect(),
        locked: locked.map(|lock| lock.sources().len()),
        users: recipe
            .users
            .iter()
            .map(|user| {
                let sudo = if user.sudo { ", sudo" } else { "" };
                format!("{} ({} keys{sudo})", user.name, user.ssh_keys.len())
            })
            .collect(),
        notes,
    }
}

fn text(summary: &Summary) -> String {
    let Summary { parts: [boot, reserve, root], .. } = summary;
    let place = |part: &Part| {
        format!("{} {} at {}", part.name, BinaryBytes(part.size), BinaryBytes(part.start))
    };
    let none = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    let locked = summary
        .locked
        .map_or("not locked".to_owned(), |count| format!("{count} with what they need"));
    let mut text = String::new();
    for (what, value) in [
        (
            "image",
            format!("{} for {}, {}", summary.image, summary.board, BinaryBytes(summary.size)),
        ),
        ("chain", summary.chain.clone()),
        ("TPM", format!("{}, binding {}", summary.tpm, summary.binding)),
        ("command line", summary.command_line.clone()),
        ("partitions", [boot, reserve, root].map(place).join(", ")),
        ("root", format!("{}, named {}", summary.system, summary.hostname)),
        ("packages", format!("{} ({locked})", none(&summary.packages))),
        ("users", none(&summary.users)),
    ] {
        text.push_str(&format!("  {what:<14} {value}\n"));
    }
    for note in &summary.notes {
        text.push_str(&format!("  note           {note}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_says_what_would_be_built_and_what_to_think_of() {
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let of = |name: &str| {
            let path = recipes.join(name);
            text(&summary(&Recipe::load(&path).unwrap(), &path))
        };
        let debian = of("rpi3.toml");
        for part in [
            "msec-rpi3 for rpi3, 512.00 MiB",
            "TF-A, OP-TEE, U-Boot, Linux",
            "I2C, binding pcr",
            "boot 63.00 MiB at 1.00 MiB, reserve 4.00 MiB at 64.00 MiB, root 320.00 MiB at 68.00",
            "Debian with network, ssh, rsyslog, time, watchdog, update, watch, attest, named msec-{serial}",
            "users          none",
            "nobody will be able to log in",
        ] {
            assert!(debian.contains(part), "{part}: {debian}");
        }
        assert!(!debian.contains("lock file"), "{debian}");
        let tiny = of("rpi3-tiny.toml");
        assert!(
            tiny.contains("busybox with nothing, named msec-rpi3") && tiny.contains("root shell"),
            "{tiny}"
        );
    }

    #[test]
    fn files_that_are_named_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.toml");
        let text = "name = \"a\"\nboard = \"rpi3\"\n[kernel]\ncommand_line = \"quiet\"\n[tpm]\n\
                    binding = \"signed\"\nrollback = 1\npolicy_key = \"vendor.pem\"\n";
        std::fs::write(&path, text).unwrap();
        let check = || files_are_there(&Recipe::load(&path).unwrap());
        let message = check().unwrap_err().to_string();
        assert!(
            message.contains("`policy_key` in [tpm]") && message.contains("vendor.pem"),
            "{message}"
        );
        std::fs::write(dir.path().join("vendor.pem"), "").unwrap();
        check().unwrap();
    }
}
