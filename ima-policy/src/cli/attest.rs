//! `attest`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, Subcommand};
use ima_policy::attest::wire::{self, Deadline};
use ima_policy::attest::{Challenge, MAX_CHALLENGE, Verifier};
use ima_policy::judge::Judge;
use pcr_measure::PcrSelection;
use pcr_measure::command::{Answer, Format, json, read, replace};
use pcr_measure::key::MAX_KEY_FILE;
use pcr_measure::quote::AttestationKey;
use pcr_measure::quote::clock::{Earlier, MAX_EARLIER};

use super::manifest::manifests;
use super::verify::{SHOWN, keyring, reference};

#[cfg(feature = "keylime")]
mod keylime;
#[cfg(feature = "tpm")]
mod serve;

/// Bytes of the random nonce.
const NONCE: usize = 32;
/// The PCRs that say what booted and what ran.
const PCRS: &str = "0-10";
/// Bytes that are read at a time.
const BLOCK: usize = 64 << 10;
/// How long a device may take until it can be reached.
const CONNECT: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
pub(super) enum AttestCommand {
    /// The verifier: challenge a device, and judge its evidence
    Ask(AskArgs),
    /// The device: answer a challenge with a quote, the firmware's log and IMA's list
    #[cfg(feature = "tpm")]
    Serve(serve::ServeArgs),
    /// The device: make the attestation key, or find the one that is there
    #[cfg(feature = "tpm")]
    Key(serve::KeyArgs),
    /// The device: open a credential, which proves to who made it whose the attestation key is
    #[cfg(feature = "tpm")]
    Activate(serve::ActivateArgs),
    /// The device: report to a verifier of Keylime's, as its agent in push mode
    #[cfg(feature = "keylime")]
    Keylime(keylime::KeylimeArgs),
}

pub(super) fn run(command: &AttestCommand, format: Format) -> Result<Answer> {
    match command {
        AttestCommand::Ask(args) => ask(args, format),
        #[cfg(feature = "tpm")]
        AttestCommand::Serve(args) => serve::serve(args),
        #[cfg(feature = "tpm")]
        AttestCommand::Key(args) => serve::key(args, format),
        #[cfg(feature = "tpm")]
        AttestCommand::Activate(args) => serve::activate(args),
        #[cfg(feature = "keylime")]
        AttestCommand::Keylime(args) => keylime::run(args),
    }
}

#[derive(Debug, Args)]
pub(super) struct AskArgs {
    /// Make a challenge and write it there; the device answers it by `attest serve`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["challenge", "device", "evidence"])]
    new: Option<PathBuf>,
    /// The PCRs to be quoted; those of the manifests' seals have to be among them, 10 is IMA's
    #[arg(long, value_name = "LIST", default_value = PCRS)]
    pcrs: PcrSelection,
    /// For how many seconds an answer is taken
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    valid_for: u32,
    /// The challenge that was sent
    #[arg(long, value_name = "FILE", requires = "evidence", conflicts_with = "device")]
    challenge: Option<PathBuf>,
    /// What the device answered
    #[arg(long, value_name = "FILE", requires = "challenge")]
    evidence: Option<PathBuf>,
    /// Ask a device that listens there (attest serve --listen), and judge its answer
    #[arg(long, value_name = "ADDRESS:PORT")]
    device: Option<SocketAddr>,
    /// With --device: seconds that all of the answer may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// The device's attestation key as it was enrolled: a TPM's public area (of which it is checked
    /// that the key is restricted), PEM or DER
    #[arg(long, value_name = "FILE")]
    ak: Option<PathBuf>,
    /// The boot manifest of an image that the device may run; may be given several times
    #[arg(long, value_name = "FILE")]
    manifest: Vec<PathBuf>,
    /// What may run (ima-policy reference); may be given several times
    #[arg(long, value_name = "FILE")]
    reference: Vec<PathBuf>,
    /// Who may sign what runs: certificates or public keys; may be given several times
    #[arg(long, value_name = "FILE")]
    keyring: Vec<PathBuf>,
    /// The verdict on an earlier answer of the same device, as JSON: whether the TPM's clock went on
    #[arg(long, value_name = "FILE")]
    previous: Option<PathBuf>,
    /// Tell at most this many faulty entries one by one; all are counted
    #[arg(long, value_name = "NUMBER", default_value_t = SHOWN)]
    show: usize,
}

fn now() -> Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(since.context("the clock of this machine is not set")?.as_secs())
}

fn challenge(args: &AskArgs) -> Result<Challenge> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|error| anyhow!("no random numbers: {error}"))?;
    Ok(Challenge::new(nonce, args.pcrs, now()?, args.valid_for)?)
}

/// Makes a challenge, or judges an answer.
fn ask(args: &AskArgs, format: Format) -> Result<Answer> {
    if let Some(path) = &args.new {
        replace::file(path, &challenge(args)?.to_json()?)?;
        return Ok(Answer::yes(String::new()));
    }
    let Some(ak) = &args.ak else { bail!("--ak: the device's attestation key is needed") };
    let key = AttestationKey::parse(&read(ak, MAX_KEY_FILE)?)
        .with_context(|| format!("cannot use {}", ak.display()))?;
    if args.manifest.is_empty() {
        bail!("--manifest: the boot manifest of what may boot is needed");
    }
    let manifests = manifests(&args.manifest)?;
    let reference = reference(&args.reference)?;
    let keyring = keyring(&args.keyring)?;
    let earlier = args
        .previous
        .as_ref()
        .map(|path| {
            let earlier = Earlier::parse(&read(path, MAX_EARLIER)?);
            earlier.with_context(|| format!("cannot use {}", path.display()))
        })
        .transpose()?;
    let (challenge, mut evidence) = question(args)?;
    if challenge.pcrs().iter().any(|pcr| pcr.get() == 10)
        && reference.is_none()
        && keyring.is_none()
    {
        bail!("--reference or --keyring: what may run is needed, or ask without PCR 10 (--pcrs)");
    }
    let judge =
        Judge { reference: reference.as_ref(), keyring: keyring.as_ref(), boot_aggregate: None };
    let verifier = Verifier {
        key: &key,
        manifests: &manifests,
        judge,
        earlier: earlier.as_ref(),
        show: args.show,
    };
    let verdict = verifier.verify(&challenge, now()?, &mut evidence)?;
    let mut notes = Vec::new();
    if verdict.key_restricted.is_none() {
        notes.push(format!(
            "{} does not say whether the key is restricted; only of a TPM's public area it is checked",
            ak.display()
        ));
    }
    let text = if format == Format::Json { json(&verdict)? } else { verdict.to_string() };
    Ok(Answer { text, notes, yes: verdict.good })
}

/// The challenge, and where its answer is read.
fn question(args: &AskArgs) -> Result<(Challenge, BufReader<Box<dyn Read>>)> {
    let buffered = |reader| BufReader::with_capacity(BLOCK, reader);
    match (args.device, &args.challenge, &args.evidence) {
        (Some(address), _, _) => {
            let challenge = challenge(args)?;
            let unreached = || format!("cannot ask the device at {address}");
            let stream = TcpStream::connect_timeout(&address, CONNECT).with_context(unreached)?;
            let connection = Deadline::new(stream, Duration::from_secs(args.timeout));
            let mut answer =
                buffered(Box::new(wire::ask(connection, &challenge).with_context(unreached)?)
                    as Box<dyn Read>);
            let is_there = std::io::BufRead::fill_buf(&mut answer).map(|bytes| !bytes.is_empty());
            if !is_there.with_context(unreached)? {
                bail!("the device at {address} gave no answer: its own messages say why");
            }
            Ok((challenge, answer))
        }
        (None, Some(path), Some(evidence)) => {
            let challenge = Challenge::from_json(&read(path, MAX_CHALLENGE)?)
                .with_context(|| format!("cannot use {}", path.display()))?;
            let file = File::open(evidence)
                .with_context(|| format!("cannot read {}", evidence.display()))?;
            Ok((challenge, buffered(Box::new(file) as Box<dyn Read>)))
        }
        _ => bail!("give --new, or --challenge and --evidence, or --device"),
    }
}
