//! `watch`.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use ima_policy::judge::Judge;
use ima_policy::list::growing::Growing;
use ima_policy::watch::source::{self, Growth, ListFile, PcrFiles};
use ima_policy::watch::syslog::Syslog;
use ima_policy::watch::{Event, Filter, Report, Severity, Watch, of_proc};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use pcr_measure::PcrIndex;
use pcr_measure::command::{Answer, Format, Partly};
use pcr_measure::digest::Algorithm;
use sd_notify::NotifyState;

use super::list::algorithm;
use super::verify::{keyring, pcr, reference};

/// Between two looks: a report is out well within a second of what it is about.
const TICK: u16 = 250;

/// Between two looks at the PCR, each a command to the TPM, which others want to talk to.
const PCR_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// What is known to be good (ima-policy reference); may be given several times
    #[arg(long, value_name = "FILE")]
    reference: Vec<PathBuf>,
    /// Who may sign files: certificates or public keys, PEM or DER; may be given several times
    #[arg(long, value_name = "FILE")]
    keyring: Vec<PathBuf>,
    /// Take reference.json and ima.der in this directory too, as far as they are there
    #[arg(long, value_name = "DIRECTORY")]
    known: Option<PathBuf>,
    /// The list, in the binary form
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/sys/kernel/security/ima/binary_runtime_measurements"
    )]
    list: PathBuf,
    /// The hash of its template digests; if it is not given, the file's name says it
    #[arg(long, value_name = "HASH", value_parser = algorithm)]
    list_hash: Option<Algorithm>,
    /// The values of the SHA-256 bank; where there are none, the list is held against no PCR
    #[arg(long, value_name = "DIRECTORY", default_value = "/sys/class/tpm/tpm0/pcr-sha256")]
    pcrs: PathBuf,
    /// The PCR that the list extends
    #[arg(long, value_name = "PCR", value_parser = pcr, default_value = "10")]
    pcr: PcrIndex,
    /// The loaded modules; where there are none, none is looked for
    #[arg(long, value_name = "FILE", default_value = "/proc/modules")]
    modules: PathBuf,
    /// The log that is told, unless --format json tells standard output
    #[arg(long, value_name = "SOCKET", default_value = "/dev/log")]
    socket: PathBuf,
    /// Judge what is there now, and end
    #[arg(long)]
    once: bool,
}

/// Where reports go.
enum Log {
    Socket(Syslog),
    Output,
}

impl Log {
    fn send(&mut self, report: &Report) -> io::Result<()> {
        match self {
            Self::Socket(syslog) => syslog.send(report),
            Self::Output => {
                let mut out = io::stdout().lock();
                writeln!(out, "{}", report.json())?;
                out.flush()
            }
        }
    }
}

/// Why it ended.
enum Ended {
    /// A signal asked for it.
    Asked,
    /// All was read, and no more was asked for.
    Once,
    /// The list cannot be followed.
    Broken(anyhow::Error),
}

/// What happens around a [`Watch`]: files, the log, the clock, signals, systemd.
struct Loop<'a> {
    args: &'a WatchArgs,
    watch: Watch<'a>,
    list: ListFile,
    growing: Growing,
    hash: Algorithm,
    log: Log,
    filter: Filter,
    signals: SignalFd,
    began: Instant,
    pcr_read: Option<Instant>,
    is_asked: bool,
    is_bad: bool,
    unsent: u64,
}

/// Follows the list until it is told to end.
pub(super) fn run(args: &WatchArgs, format: Format) -> Result<Answer> {
    let known = |name: &str| {
        let path = args.known.as_ref().map(|known| known.join(name));
        path.filter(|path| path.exists())
    };
    let all = |named: &[PathBuf], name: &str| -> Vec<PathBuf> {
        named.iter().cloned().chain(known(name)).collect()
    };
    let reference = reference(&all(&args.reference, "reference.json"))?;
    let keyring = keyring(&all(&args.keyring, "ima.der"))?;
    let pcrs = PcrFiles(&args.pcrs);
    // Nobody says in this boot what the firmware's PCRs were but the TPM.
    let aggregate = pcrs.boot_aggregate().ok();
    let judge = Judge {
        reference: reference.as_ref(),
        keyring: keyring.as_ref(),
        boot_aggregate: aggregate.as_ref(),
    };
    let list = ListFile::open(&args.list).with_context(|| {
        format!(
            "cannot read the list {}: it takes root, a kernel with IMA, and securityfs mounted",
            args.list.display()
        )
    })?;
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals.thread_block().context("cannot block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&signals, flags).context("cannot wait for signals")?;
    let hash = args.list_hash.unwrap_or_else(|| source::hash_of(&args.list));
    let mut all = Loop {
        args,
        watch: Watch::new(judge, args.pcr),
        list,
        growing: Growing::new(hash),
        hash,
        log: match format {
            Format::Json => Log::Output,
            Format::Text => Log::Socket(Syslog::new(&args.socket)),
        },
        filter: Filter::default(),
        signals,
        began: Instant::now(),
        pcr_read: None,
        is_asked: false,
        is_bad: false,
        unsent: 0,
    };
    let with = with(
        args,
        reference.as_ref().map(|its| its.counts()),
        keyring.as_ref(),
        aggregate.is_some(),
    );
    all.tell(Report::new(Event::Start, Severity::Info).because(&with))?;
    notify(&[NotifyState::Ready]);
    let ended = match all.follow() {
        Ok(ended) => ended,
        Err(error) => Ended::Broken(error),
    };
    all.end(ended, format)
}

/// By what it is judged, in words.
fn with(
    args: &WatchArgs,
    reference: Option<[usize; 3]>,
    keyring: Option<&ima_policy::signature::Keyring>,
    has_pcrs: bool,
) -> String {
    let reference = match reference {
        Some([files, keyrings, buffers]) => {
            format!("a reference of {} names", files + keyrings + buffers)
        }
        None => "no reference".to_owned(),
    };
    let keys = keyring.map_or(0, |keyring| keyring.keys().len());
    let tpm = if has_pcrs { format!("PCR {}", args.pcr) } else { "no TPM".to_owned() };
    let modules = if args.modules.exists() { "" } else { "; no list of loaded modules" };
    format!("{}; {reference}; keys: {keys}; {tpm}{modules}", args.list.display())
}

/// What systemd is told; without systemd nobody.
fn notify(state: &[NotifyState<'_>]) {
    sd_notify::notify(state).ok();
}

impl Loop<'_> {
    fn follow(&mut self) -> Result<Ended> {
        loop {
            self.look()?;
            if self.growing.is_over() {
                return Err(anyhow!("where its next record begins cannot be told"));
            }
            if self.args.once {
                return Ok(Ended::Once);
            }
            if let Some(report) = self.filter.told(self.began.elapsed(), false) {
                self.send(&report)?;
            }
            self.wait()?;
            if self.is_asked {
                return Ok(Ended::Asked);
            }
        }
    }

    /// One look at everything. What the list has to explain is looked at before the list.
    fn look(&mut self) -> Result<()> {
        let modules = match source::modules(&self.args.modules) {
            Ok(text) => of_proc(&text),
            Err(_) => BTreeSet::new(),
        };
        let is_due = self.pcr_read.is_none_or(|at| at.elapsed() >= PCR_EVERY);
        if is_due && let Ok(value) = PcrFiles(&self.args.pcrs).value(self.args.pcr) {
            self.watch.pcr(value);
            self.pcr_read = Some(Instant::now());
        }
        let growth = self.list.growth()?;
        if let Growth::Shrank { was, is } = growth {
            self.growing = Growing::new(self.hash);
            let report = self.watch.shrank(was, is);
            self.tell(report)?;
        }
        if growth != Growth::None {
            self.read_on()?;
        }
        if self.is_asked {
            return Ok(());
        }
        for report in self.watch.is_read(&modules) {
            self.tell(report)?;
        }
        Ok(())
    }

    /// Reads the list to its end.
    fn read_on(&mut self) -> Result<()> {
        while !self.is_asked {
            let piece = self.list.piece()?;
            if piece.is_empty() {
                break;
            }
            self.growing.push(piece);
            self.records()?;
            // A long list takes longer than systemd waits.
            notify(&[NotifyState::Watchdog]);
        }
        Ok(())
    }

    fn records(&mut self) -> Result<()> {
        while !self.is_asked {
            let reports = match self.growing.record() {
                Ok(None) => return Ok(()),
                Ok(Some(record)) => self.watch.record(&record)?,
                Err(error) => vec![self.watch.unreadable(&error)],
            };
            for report in reports {
                self.tell(report)?;
            }
        }
        Ok(())
    }

    /// Sends a report, unless it was sent already.
    fn tell(&mut self, report: Report) -> Result<()> {
        self.is_bad |= report.is_bad();
        if self.filter.takes(&report, self.began.elapsed()) {
            self.send(&report)?;
        }
        Ok(())
    }

    /// Until the log takes it: the list waits in the kernel meanwhile, and nothing is lost.
    /// Who is told to end does not wait longer.
    fn send(&mut self, report: &Report) -> Result<()> {
        loop {
            let error = match self.log.send(report) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if matches!(self.log, Log::Output) {
                return Err(error).context("cannot write to standard output");
            }
            if self.args.once {
                let path = self.args.socket.display();
                return Err(error).with_context(|| format!("cannot write to the log {path}"));
            }
            if !self.is_asked {
                self.wait()?;
            }
            if self.is_asked {
                self.unsent += 1;
                return Ok(());
            }
        }
    }

    /// Waits for the next look, or for a signal.
    fn wait(&mut self) -> Result<()> {
        notify(&[NotifyState::Watchdog]);
        let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(TICK)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait"),
        }
        self.is_asked |= self.signals.read_signal().context("cannot read signals")?.is_some();
        Ok(())
    }

    /// The last words.
    fn end(mut self, ended: Ended, format: Format) -> Result<Answer> {
        notify(&[NotifyState::Stopping]);
        // What cannot be sent now never is.
        self.is_asked = true;
        if let Some(report) = self.filter.told(self.began.elapsed(), true) {
            self.send(&report)?;
        }
        let entries = self.watch.entries();
        let why = match &ended {
            Ended::Asked => "it was told to".to_owned(),
            Ended::Once => "all was read".to_owned(),
            Ended::Broken(error) => format!("{error:#}"),
        };
        let severity = match &ended {
            Ended::Asked if !self.args.once => Severity::Notice,
            Ended::Asked | Ended::Once => Severity::Info,
            Ended::Broken(_) => Severity::Alert,
        };
        self.send(
            &Report::new(Event::Stop, severity).because(&format!("{why}; {entries} entries")),
        )?;
        let mut answer = Answer::yes(String::new());
        answer.yes = !self.is_bad || !self.args.once;
        if format == Format::Text && self.args.once {
            let bad =
                if self.is_bad { "something is wrong: see the log" } else { "nothing is wrong" };
            answer.text = format!("{entries} entries: {bad}\n");
        }
        if self.unsent > 0 {
            answer.notes.push(format!("{} reports could not be sent", self.unsent));
        }
        let list = self.args.list.display();
        match ended {
            Ended::Broken(error) => {
                Err(Partly { answer, why: format!("{list}: {error:#}") }.into())
            }
            Ended::Once if self.growing.is_within() => {
                let why = format!("{list} ends within entry {}", entries + 1);
                Err(Partly { answer, why }.into())
            }
            Ended::Asked | Ended::Once => Ok(answer),
        }
    }
}
