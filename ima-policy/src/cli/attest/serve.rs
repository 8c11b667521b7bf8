//! `attest serve` and `attest key`: the device's side.

use std::io::{self, BufWriter, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use ima_policy::attest::device::{self, EVENT_LOG, LIST, Sources, sized};
use ima_policy::attest::wire::{self, Deadline};
use ima_policy::attest::{Challenge, Credential, MAX_CHALLENGE, MAX_CREDENTIAL};
use pcr_measure::command::live::{AK, TpmArgs, handle};
use pcr_measure::command::{Answer, Format, json, read, replace};
use pcr_measure::structures::TpmPublic;
use serde::Serialize;

/// How long one who asks may take to ask: nobody else is heard meanwhile.
const QUESTION: Duration = Duration::from_secs(5);
/// How long the answer may take to be made and taken.
const ANSWER: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(in crate::cli) struct ServeArgs {
    /// The challenge (attest ask --new)
    #[arg(long, value_name = "FILE", requires = "output", conflicts_with = "listen")]
    challenge: Option<PathBuf>,
    /// Where the evidence goes
    #[arg(long, value_name = "FILE", requires = "challenge")]
    output: Option<PathBuf>,
    /// Answer whoever asks there (attest ask --device), one after another. They learn what the
    /// device has run
    #[arg(long, value_name = "ADDRESS:PORT", num_args = 0..=1,
        default_missing_value = "127.0.0.1:2325")]
    listen: Option<SocketAddr>,
    /// Persistent handle of the attestation key, which is made if it is not there
    #[arg(long, default_value = AK, value_parser = handle, value_name = "HANDLE")]
    ak: u32,
    /// The firmware's event log
    #[arg(long, value_name = "FILE", default_value = EVENT_LOG)]
    event_log: PathBuf,
    /// IMA's list, binary
    #[arg(long, value_name = "FILE", default_value = LIST)]
    list: PathBuf,
    /// The boot manifest of the running image; of several that one is sent which the PCRs confirm
    #[arg(long, value_name = "FILE")]
    manifest: Vec<PathBuf>,
    #[command(flatten)]
    tpm: TpmArgs,
}

impl ServeArgs {
    fn answer(&self, challenge: &Challenge, out: &mut impl Write) -> Result<()> {
        let sources = Sources {
            event_log: self.event_log.clone(),
            list: self.list.clone(),
            manifests: self.manifest.clone(),
        };
        // Opened for each answer: between two of them the TPM is everybody's.
        Ok(device::answer(&mut self.tpm.open()?, self.ak, challenge, &sources, out)?)
    }
}

/// Answers one challenge, or those that come.
pub(super) fn serve(args: &ServeArgs) -> Result<Answer> {
    match (&args.challenge, &args.output, args.listen) {
        (Some(challenge), Some(output), _) => {
            let bytes = read(challenge, MAX_CHALLENGE)?;
            let challenge = Challenge::from_json(&bytes)
                .with_context(|| format!("cannot use {}", challenge.display()))?;
            replace::written(output, |file| {
                let mut file = BufWriter::new(file);
                args.answer(&challenge, &mut file)?;
                file.flush().map_err(Into::into)
            })?;
            Ok(Answer::yes(String::new()))
        }
        (_, _, Some(address)) => listen(args, address),
        _ => bail!("give --challenge and --output, or --listen"),
    }
}

fn listen(args: &ServeArgs, address: SocketAddr) -> Result<Answer> {
    let listener =
        TcpListener::bind(address).with_context(|| format!("cannot listen at {address}"))?;
    tell(&format!("listening at {}", listener.local_addr()?));
    loop {
        match listener.accept() {
            Ok((stream, from)) => match converse(args, stream) {
                Ok(()) => tell(&format!("{from}: answered")),
                Err(error) => tell(&format!("{from}: {error:#}")),
            },
            // The other side has gone already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error).context("no connection can be accepted any more"),
        }
    }
}

fn converse(args: &ServeArgs, stream: TcpStream) -> Result<()> {
    let mut connection = Deadline::new(stream, QUESTION);
    let challenge = wire::question(&mut connection)?;
    connection.restart(ANSWER);
    let mut out = BufWriter::new(connection);
    args.answer(&challenge, &mut out)?;
    Ok(out.flush()?)
}

/// A line for the journal. Where nobody reads it, it is not missed.
fn tell(line: &str) {
    let line = line.replace(char::is_control, "?");
    writeln!(io::stderr(), "ima-policy: {line}").ok();
}

#[derive(Debug, Args)]
pub(in crate::cli) struct KeyArgs {
    /// Persistent handle that the key is kept at
    #[arg(long, default_value = AK, value_parser = handle, value_name = "HANDLE")]
    ak: u32,
    /// Where its public area goes, which the verifier needs (attest ask --ak)
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Where the public area of the endorsement key goes (TPM2B_PUBLIC, as tpm2_makecredential -u
    /// takes it)
    #[arg(long, value_name = "FILE")]
    endorsement: Option<PathBuf>,
    /// Where the maker's certificate for that key goes (DER); an error if the TPM has none
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    #[command(flatten)]
    tpm: TpmArgs,
}

/// A verifier's credential.
#[derive(Debug, Args)]
pub(in crate::cli) struct ActivateArgs {
    /// The credential (tpm2_makecredential -o)
    #[arg(long, value_name = "FILE")]
    credential: PathBuf,
    /// Where the secret goes that was in it
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Persistent handle of the attestation key
    #[arg(long, default_value = AK, value_parser = handle, value_name = "HANDLE")]
    ak: u32,
    #[command(flatten)]
    tpm: TpmArgs,
}

/// Opens a credential.
pub(super) fn activate(args: &ActivateArgs) -> Result<Answer> {
    let credential = Credential::parse(&read(&args.credential, MAX_CREDENTIAL)?)
        .with_context(|| format!("cannot use {}", args.credential.display()))?;
    let mut tpm = args.tpm.open()?;
    let opened = tpm
        .activate_credential(args.ak, &credential.id_object, &credential.secret)
        .context("the credential is not for this TPM and this key")?;
    replace::file(&args.output, &opened)?;
    Ok(Answer::yes(String::new()))
}

#[derive(Serialize)]
struct KeyJson {
    handle: String,
    name: String,
}

/// Makes the attestation key, or finds the one that is there.
pub(super) fn key(args: &KeyArgs, format: Format) -> Result<Answer> {
    let mut tpm = args.tpm.open()?;
    let bytes = tpm.ensure_ak(args.ak)?;
    let name = hex::encode(TpmPublic::parse(&bytes)?.name()?);
    let mut files = vec![(args.output.as_path(), bytes)];
    if let Some(path) = &args.endorsement {
        files.push((path, sized(&tpm.ek_public()?)));
    }
    if let Some(path) = &args.certificate {
        let certificate = tpm.ek_certificate()?;
        files.push((path, certificate.context("the TPM has no certificate for its key")?));
    }
    let files: Vec<_> = files.iter().map(|(path, bytes)| (*path, bytes.as_slice())).collect();
    replace::files(&files)?;
    let told = KeyJson { handle: format!("{:#010x}", args.ak), name };
    Ok(Answer::yes(match format {
        Format::Json => json(&told)?,
        Format::Text => format!("handle  {}\nname    {}\n", told.handle, told.name),
    }))
}
