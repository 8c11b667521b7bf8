//! `quarantine`.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use ima_policy::quarantine::{Allowed, MAX_STATE, State, is_in_force, removal, ruleset};
use pcr_measure::command::{Answer, Format, json, read, replace};
use serde::Serialize;

/// Where the state is kept unless another place is named.
pub(super) const STATE_DIR: &str = "/var/lib/ima-policy";
/// The state, in that directory.
const STATE: &str = "quarantine.json";
/// Where the packet filter's program is, beside PATH: services have no sbin in theirs.
const NFT: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "nft"];

#[derive(Debug, Subcommand)]
pub(super) enum QuarantineCommand {
    /// Drop the network but for these addresses, now and after each restart, until `off`
    On(OnArgs),
    /// Let the network through again
    Off(StateArgs),
    /// Whether the device is in quarantine: 0 no, 1 yes
    Status(StateArgs),
    /// Put the quarantine that was kept into force again: for a boot, before the network is up. A
    /// state that cannot be read allows nobody
    Restore(StateArgs),
}

#[derive(Debug, Args)]
pub(super) struct StateArgs {
    /// Where the state is kept: on a disk that lasts
    #[arg(long, value_name = "DIRECTORY", default_value = STATE_DIR)]
    state_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct OnArgs {
    /// An address, or a network, that may still reach the device and be reached; may be given
    /// several times
    #[arg(long, value_name = "ADDRESS[/BITS]", required = true)]
    allow: Vec<Allowed>,
    #[command(flatten)]
    state: StateArgs,
}

impl StateArgs {
    fn file(&self) -> PathBuf {
        self.state_dir.join(STATE)
    }

    /// What is kept; `None` if nothing is.
    fn kept(&self) -> Result<Option<State>> {
        let path = self.file();
        if !path.try_exists().with_context(|| path.display().to_string())? {
            return Ok(None);
        }
        let state = State::from_json(&read(&path, MAX_STATE)?);
        Ok(Some(state.with_context(|| path.display().to_string())?))
    }
}

#[derive(Serialize)]
struct StatusJson {
    /// In the kernel.
    in_force: bool,
    /// For the next boot.
    kept: bool,
    allow: Vec<Allowed>,
}

pub(super) fn run(command: &QuarantineCommand, format: Format) -> Result<Answer> {
    match command {
        QuarantineCommand::On(args) => {
            on(&args.allow, &args.state.state_dir)?;
            Ok(Answer::yes(String::new()))
        }
        QuarantineCommand::Off(args) => off(args),
        QuarantineCommand::Status(args) => status(args, format),
        QuarantineCommand::Restore(args) => restore(args),
    }
}

/// Keeps the quarantine, then puts it into force: cut between the two, the next boot does.
pub(super) fn on(allow: &[Allowed], state_dir: &Path) -> Result<()> {
    let state = State::new(allow.to_vec())?;
    let json = state.to_json()?;
    let kept = fs::create_dir_all(state_dir)
        .with_context(|| format!("cannot make {}", state_dir.display()))
        .and_then(|()| replace::file(&state_dir.join(STATE), &json));
    // A full disk keeps nobody on the network.
    load(&ruleset(&state.allow))?;
    kept.context("the quarantine is in force, but it ends with the next restart")
}

/// The other way round: cut between the two, the next boot is in quarantine still.
fn off(args: &StateArgs) -> Result<Answer> {
    load(&removal())?;
    let path = args.file();
    let gone = match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => File::open(&args.state_dir).and_then(|directory| directory.sync_all()),
    };
    gone.with_context(|| {
        format!(
            "the quarantine has ended, but comes back with the next restart: {}",
            path.display()
        )
    })?;
    Ok(Answer::yes(String::new()))
}

fn status(args: &StateArgs, format: Format) -> Result<Answer> {
    let in_force = is_in_force(&nft(&["-j", "list", "ruleset"], "")?)?;
    let kept = args.kept()?;
    let told = StatusJson {
        in_force,
        kept: kept.is_some(),
        allow: kept.map(|state| state.allow).unwrap_or_default(),
    };
    let text = match format {
        Format::Json => json(&told)?,
        Format::Text => {
            let word = |is| if is { "yes" } else { "no" };
            let allow: Vec<_> = told.allow.iter().map(ToString::to_string).collect();
            format!(
                "in force           {}\nat the next boot   {}\nallowed            {}\n",
                word(told.in_force),
                word(told.kept),
                if allow.is_empty() { "-".to_owned() } else { allow.join(" ") }
            )
        }
    };
    let yes = !told.in_force && !told.kept;
    Ok(Answer { text, notes: Vec::new(), yes })
}

fn restore(args: &StateArgs) -> Result<Answer> {
    match args.kept() {
        Ok(None) => Ok(Answer::yes(String::new())),
        Ok(Some(state)) => {
            load(&ruleset(&state.allow))?;
            Ok(Answer::yes(String::new()))
        }
        Err(error) => {
            load(&ruleset(&[]))?;
            Err(error.context("nobody is allowed, since the quarantine that was kept is broken"))
        }
    }
}

/// Gives the packet filter a transaction.
fn load(script: &str) -> Result<()> {
    nft(&["-f", "-"], script).map(drop)
}

fn nft(args: &[&str], input: &str) -> Result<Vec<u8>> {
    let program = NFT.iter().find(|path| Path::new(path).is_file()).unwrap_or(&"nft");
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}: the package nftables is needed"))?;
    // A child that has ended already says why.
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).ok();
    }
    let ran = child.wait_with_output().context("nft")?;
    if !ran.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&ran.stderr).trim());
    }
    Ok(ran.stdout)
}
