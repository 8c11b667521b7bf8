//! `attest keylime`.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use ima_policy::attest::device::EVENT_LOG;
use ima_policy::keylime::{Agent, Client, Outcome, Settings};
use ima_policy::quarantine::Allowed;
use pcr_measure::Sha256Digest;
use pcr_measure::command::live::{TpmArgs, handle};
use pcr_measure::command::{Answer, read, replace};
use pcr_measure::key::MAX_KEY_FILE;

use crate::cli::quarantine;

/// Where the attestation key is: beside the one of `attest serve`, which is no RSA key.
const AK: &str = "0x81010003";
/// IMA's list as text.
const LIST: &str = "/sys/kernel/security/ima/ascii_runtime_measurements";
/// When the system booted, by its own clock (proc_stat(5), `btime`).
const STAT: &str = "/proc/stat";
/// What has to last as long as a boot.
const RUN_DIR: &str = "/run/ima-policy";
/// The time of the boot, in that directory.
const BOOT_TIME: &str = "boot-time";
/// Longest file of either, in bytes: `/proc/stat` has a line for each processor and interrupt.
const MAX_STAT: usize = 1 << 20;
/// Rounds until a verdict, with --once.
const TRIES: u32 = 5;
/// Until the next round after one that failed.
const AGAIN: Duration = Duration::from_secs(30);
/// However long the verifier says: so that it is told what has happened since.
const LONGEST: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum OnRefused {
    /// Tell it
    Nothing,
    /// Drop the network but for --allow (ima-policy quarantine)
    Quarantine,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct KeylimeArgs {
    /// The verifier, https://HOST:8881; HOST as in its certificate
    #[arg(long, value_name = "URL")]
    verifier: String,
    /// The registrar, http://HOST:8890
    #[arg(long, value_name = "URL")]
    registrar: String,
    /// Who signs the verifier's certificate (PEM; cacert.crt in Keylime's cv_ca)
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// The device's name there [default: SHA-256 of the endorsement key's public area]
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// End after the first verdict: 0 accepted, 1 refused
    #[arg(long)]
    once: bool,
    /// What is done when the verifier refuses the device. That it does not answer refuses nobody
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnRefused::Nothing)]
    on_refused: OnRefused,
    /// With --on-refused quarantine: an address that may still reach the device; may be given
    /// several times
    #[arg(long, value_name = "ADDRESS[/BITS]")]
    allow: Vec<Allowed>,
    /// With --on-refused quarantine: where its state is kept
    #[arg(long, value_name = "DIRECTORY", default_value = quarantine::STATE_DIR)]
    state_dir: PathBuf,
    /// Persistent handle of the attestation key, an RSA key, which is made if it is not there
    #[arg(long, default_value = AK, value_parser = handle, value_name = "HANDLE")]
    ak: u32,
    /// IMA's list as text
    #[arg(long, value_name = "FILE", default_value = LIST)]
    list: PathBuf,
    /// The firmware's event log
    #[arg(long, value_name = "FILE", default_value = EVENT_LOG)]
    event_log: PathBuf,
    /// Where the time of the boot is kept, which must not change while it lasts
    #[arg(long, value_name = "DIRECTORY", default_value = RUN_DIR)]
    run_dir: PathBuf,
    #[command(flatten)]
    tpm: TpmArgs,
}

impl KeylimeArgs {
    fn check(&self) -> Result<()> {
        if !self.verifier.starts_with("https://") {
            bail!("--verifier: https:// is needed: its word decides about the device");
        }
        if self.on_refused == OnRefused::Quarantine && self.allow.is_empty() {
            bail!("--allow: name an address that may still reach the device");
        }
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        match &self.id {
            Some(id) if id.is_empty() || id.len() > 80 || !id.bytes().all(is_name) => {
                bail!("--id: 1 to 80 letters, digits, -, _ and . are taken")
            }
            _ => Ok(()),
        }
    }
}

/// Registers the device, and attests it, again and again.
pub(super) fn run(args: &KeylimeArgs) -> Result<Answer> {
    args.check()?;
    let authority = read(&args.ca, MAX_KEY_FILE)?;
    let client =
        || Client::new(&authority).with_context(|| format!("cannot use {}", args.ca.display()));
    client()?;
    let id = match &args.id {
        Some(id) => id.clone(),
        None => Sha256Digest::of(&args.tpm.open()?.ek_public()?).to_string(),
    };
    tell(&format!("this device is {id}"));
    let settings = Settings {
        id,
        registrar: args.registrar.trim_end_matches('/').to_owned(),
        verifier: args.verifier.trim_end_matches('/').to_owned(),
        ak: args.ak,
        list: args.list.clone(),
        event_log: args.event_log.clone(),
        boot_time: boot_time(&args.run_dir)?,
    };
    let mut agent = Agent::new(settings, client()?);
    let mut is_registered = false;
    for round in 1.. {
        let mut rounds = || -> Result<Outcome> {
            // Opened for each round: between two of them the TPM is everybody's.
            let mut tpm = args.tpm.open()?;
            if !is_registered {
                agent.register(&mut tpm)?;
                is_registered = true;
            }
            Ok(agent.attest(&mut tpm)?)
        };
        let pause = match rounds() {
            Ok(Outcome::Accepted { next, entries }) => {
                tell(&format!("the verifier accepts the device; new entries: {entries}"));
                if args.once {
                    return Ok(Answer::yes(String::new()));
                }
                next
            }
            Ok(Outcome::Refused { reason }) => {
                tell(&format!("the verifier refuses the device: {reason}"));
                if args.on_refused == OnRefused::Quarantine {
                    quarantine::on(&args.allow, &args.state_dir)?;
                    tell("the device is in quarantine");
                }
                if args.once {
                    return Ok(Answer { text: String::new(), notes: Vec::new(), yes: false });
                }
                AGAIN
            }
            Ok(Outcome::Later { .. }) if args.once && round >= TRIES => {
                return Err(anyhow!("the verifier has come to no verdict"));
            }
            Ok(Outcome::Later { after }) => after,
            Err(error) if args.once => return Err(error),
            Err(error) => {
                tell(&format!("no verdict: {error:#}"));
                AGAIN
            }
        };
        thread::sleep(pause.clamp(Duration::from_secs(1), LONGEST));
    }
    Ok(Answer::yes(String::new()))
}

/// When the system has booted. The kernel computes it from its clock, which is set while it runs:
/// the first answer of a boot holds.
fn boot_time(run_dir: &Path) -> Result<u64> {
    let path = run_dir.join(BOOT_TIME);
    if path.exists() {
        let kept = String::from_utf8(read(&path, MAX_STAT)?).ok();
        let kept = kept.and_then(|text| text.trim().parse().ok());
        return kept.with_context(|| format!("{} holds no time", path.display()));
    }
    let stat = String::from_utf8_lossy(&read(Path::new(STAT), MAX_STAT)?).into_owned();
    let found = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    let found: u64 = found.with_context(|| format!("{STAT} has no btime"))?;
    fs::create_dir_all(run_dir).with_context(|| format!("cannot make {}", run_dir.display()))?;
    replace::file(&path, format!("{found}\n").as_bytes())?;
    Ok(found)
}

/// A line for the journal. Where nobody reads it, it is not missed.
fn tell(line: &str) {
    let line = line.replace(char::is_control, "?");
    writeln!(io::stderr(), "ima-policy: {line}").ok();
}
