//! `image-builder devices`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use zeroize::Zeroizing;

use super::{Format, Global, setting};
use crate::devices::certificate::{Makers, judge};
use crate::devices::record::{self, Record};
use crate::devices::store::{Added, Device, Store};
use crate::devices::{escrow, export};
use crate::image::card::Card;

/// Largest file with identities or certificates, in bytes.
const MAX_FILE: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct DevicesArgs {
    /// The list, an SQLite file; made by the first import
    #[arg(long, global = true, value_name = "FILE", default_value = "devices.sqlite")]
    database: PathBuf,
    #[command(subcommand)]
    command: Devices,
}

#[derive(Debug, Subcommand)]
enum Devices {
    /// Take device records into the list: all that are given, or none
    Import {
        /// Records (device-record.json), cards in a reader, or images of cards
        #[arg(required = true, value_name = "FILE")]
        records: Vec<PathBuf>,
        /// Certificates of TPM makers (PEM); roots are trusted, others may stand between
        #[arg(long, value_name = "FILE")]
        ek_roots: Vec<PathBuf>,
        /// Refuse a record whose TPM no maker vouches for
        #[arg(long, requires = "ek_roots")]
        require_certificate: bool,
    },
    /// List the devices
    List,
    /// Show what is known of a device
    Show {
        /// Its number, serial number, volume UUID, or the beginning of its EK's Name
        device: String,
    },
    /// Decrypt a device's recovery key and print it
    RecoveryKey {
        /// As for `show`
        device: String,
        /// The operator's age identity, as age-keygen writes it
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
    },
    /// Print the whole list for other programs
    Export {
        /// The form; records with their encrypted recovery keys are in JSON alone
        #[arg(long = "as", value_enum, default_value_t = As::Csv)]
        form: As,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum As {
    Csv,
    Json,
}

pub(super) fn run(global: &Global, args: &DevicesArgs) -> anyhow::Result<ExitCode> {
    if let Devices::Import { records, ek_roots, require_certificate } = &args.command {
        return import(global, &args.database, records, ek_roots, *require_certificate);
    }
    if !args.database.exists() {
        bail!("there is no list {}; `devices import` makes it", args.database.display());
    }
    let store = Store::open(&args.database)?;
    match &args.command {
        Devices::Import { .. } => {}
        Devices::List => list(global, &store.devices()?)?,
        Devices::Show { device } => {
            let Some(device) = find(&store, device)? else { return Ok(ExitCode::from(1)) };
            let all = export::json(&[(device.clone(), store.json(device.id)?)])?;
            match global.format {
                Format::Json => setting::print_json(&all)?,
                Format::Text => setting::print(&shown(&device))?,
            }
        }
        Devices::RecoveryKey { device, identity } => {
            let Some(device) = find(&store, device)? else { return Ok(ExitCode::from(1)) };
            let record = Record::parse(&store.json(device.id)?)?;
            let text = Zeroizing::new(read(identity)?);
            let text = std::str::from_utf8(&text).unwrap_or_default();
            let identities =
                escrow::identities(text).with_context(|| format!("{}", identity.display()))?;
            let closed = record.recovery_key.ok_or(escrow::EscrowError::None)?;
            let key = escrow::open(&closed, &identities)?;
            setting::print(&key)?;
            setting::print("\n")?;
        }
        Devices::Export { form } => {
            let devices = store.devices()?;
            match form {
                As::Csv => setting::print(&export::csv(&devices))?,
                As::Json => {
                    let json = |device: Device| {
                        let json = store.json(device.id)?;
                        Ok((device, json))
                    };
                    let all: anyhow::Result<Vec<_>> = devices.into_iter().map(json).collect();
                    setting::print_json(&export::json(&all?)?)?;
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn import(
    global: &Global,
    database: &Path,
    paths: &[PathBuf],
    roots: &[PathBuf],
    require: bool,
) -> anyhow::Result<ExitCode> {
    let makers = if roots.is_empty() {
        None
    } else {
        let texts = roots.iter().map(|path| read(path)).collect::<anyhow::Result<Vec<_>>>()?;
        let of = || roots.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
        Some(Makers::from_pem(&texts).with_context(|| of().join(", "))?)
    };
    let (mut records, mut refused) = (Vec::new(), false);
    for path in paths {
        let record = Record::parse(&record_in(path)?);
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                eprintln!("image-builder: {}: {error}", path.display());
                refused = true;
                continue;
            }
        };
        let endorsement = judge(&record, makers.as_ref())?;
        if require && !matches!(endorsement, crate::devices::certificate::Endorsement::Good { .. })
        {
            eprintln!("image-builder: {}: endorsement key: {endorsement}", path.display());
            refused = true;
        }
        records.push((record, endorsement));
    }
    if refused {
        eprintln!("image-builder: nothing was taken into the list");
        return Ok(ExitCode::from(1));
    }
    let added = Store::open(database)?.add(&records)?;
    if global.format == Format::Json {
        let rows: Vec<_> = paths
            .iter()
            .zip(&records)
            .zip(&added)
            .map(|((path, (record, endorsement)), added)| {
                serde_json::json!({
                    "file": path, "volume": record.volume, "serial": record.serial,
                    "added": added, "endorsement": endorsement.to_string(),
                })
            })
            .collect();
        setting::print_json(&serde_json::json!({
            "schema": "msec-boot/devices-import/1", "records": rows,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for ((path, (record, endorsement)), added) in paths.iter().zip(&records).zip(added) {
        let what = match added {
            Added::New => "new",
            Added::Known => "known already",
            Added::Again => "a newer record of a volume in the list",
        };
        let serial = record.serial.as_deref().unwrap_or("no serial number");
        // Writing to a string does not fail.
        let _ =
            writeln!(text, "{}: {serial}: {what}; endorsement key: {endorsement}", path.display());
    }
    setting::print(&setting::for_host(&text))?;
    Ok(ExitCode::SUCCESS)
}

/// The record in a file: the file itself, or that on the boot partition of a card.
fn record_in(path: &Path) -> anyhow::Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    let mut first = [0; 1];
    let read = File::open(path).and_then(|mut file| file.read(&mut first)).with_context(cannot)?;
    if read == 1 && first != *b"{" && !first[0].is_ascii_whitespace() {
        return Ok(Card::open(path)?.boot_file(record::NAME)?);
    }
    // One byte more than a record may have is enough to refuse it.
    let mut bytes = Vec::new();
    let most = record::MAX_SIZE as u64 + 1;
    File::open(path).and_then(|f| f.take(most).read_to_end(&mut bytes)).with_context(cannot)?;
    Ok(bytes)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let size = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if size > MAX_FILE {
        bail!("{} has {size} bytes; {MAX_FILE} are taken", path.display());
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The one device that a word stands for; says so when there is none, or more.
fn find(store: &Store, word: &str) -> anyhow::Result<Option<Device>> {
    let mut found = store.find(word)?;
    match found.len() {
        1 => return Ok(found.pop()),
        0 => eprintln!("image-builder: no device {word} in the list"),
        _ => {
            let ids: Vec<_> = found.iter().map(|device| device.id.to_string()).collect();
            eprintln!("image-builder: {word} may be each of {}: say its number", ids.join(", "));
        }
    }
    Ok(None)
}

fn list(global: &Global, devices: &[Device]) -> anyhow::Result<()> {
    if global.format == Format::Json {
        return setting::print_json(&serde_json::json!({
            "schema": "msec-boot/devices-list/1", "devices": devices,
        }));
    }
    let mut text = format!(
        "{:>4}  {:<16}  {:<36}  {:<12}  {}\n",
        "id", "serial", "volume", "image", "endorsement key"
    );
    for device in devices {
        let serial = device.serial.as_deref().unwrap_or("-");
        let _ = writeln!(
            text,
            "{:>4}  {serial:<16}  {:<36}  {:<12}  {}",
            device.id, device.volume, device.image, device.endorsement
        );
    }
    setting::print(&text)
}

fn shown(device: &Device) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    format!(
        "id           {}\nserial       {}\nmodel        {}\nboard        {}\nimage        {}\n\
         volume       {}\nEK           {}\nAK           {}\nendorsement  {}\nrecipient    {}\n",
        device.id,
        or_none(&device.serial),
        or_none(&device.model),
        device.board,
        device.image,
        device.volume,
        or_none(&device.ek_name),
        or_none(&device.ak_name),
        device.endorsement,
        or_none(&device.recipient),
    )
}
