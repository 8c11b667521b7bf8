//! What came out of it.

use std::{fmt::Write as _, time::Duration};

use emulated_board::wire::{self, Exchange, command};
use msec_tests::peers::Peers;
use serde_json::{Value, json};

use crate::{
    contender::{ALL, Contender},
    guest::{Guest, Recovery, Run},
};

/// Bytes of a secret that count as seen when they pass in one piece.
const PIECE: usize = 8;

/// `encrypt` of `TPMA_SESSION` (TCG Part 2, 8.4): the answer's first parameter is
/// encrypted.
const ENCRYPT: u8 = 1 << 6;

/// `TPM_ST_SESSIONS`.
const SESSIONS: [u8; 2] = [0x80, 0x02];

/// `TPM2_CC_Unseal`.
const UNSEAL: u32 = 0x15e;

/// All figures.
#[derive(Debug)]
pub(crate) struct Figures {
    all: Vec<Of>,
    recovery: Option<Recovery>,
    unseal: u64,
    /// The host's load average when it began.
    load: String,
}

/// The stages of initramfs-unseal's report that are reached by TPM commands.
const TPM_STAGES: [&str; 4] = ["tpm", "unsealed", "latched", "handed-over"];

/// What the goal is: at most this times the floor.
const GOAL: f64 = 1.25;

/// Those of one contender.
#[derive(Debug)]
struct Of {
    name: &'static str,
    version: String,
    /// Why there are none.
    missing: Option<String>,
    first: Option<Run>,
    runs: Vec<Run>,
    processes: u32,
    execs: u32,
}

/// Smallest, middle and largest value, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let half = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(at(half.saturating_sub(1)), at(half))
        } else {
            at(half)
        };
        Self { min: at(0), median, max: at(values.len().saturating_sub(1)) }
    }

    fn json(self) -> Value {
        json!({ "min": round(self.min), "median": round(self.median), "max": round(self.max) })
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn round(value: f64) -> f64 {
    // An empty sum is -0.0.
    (value * 1e3).round() / 1e3 + 0.0
}

impl Of {
    fn new(contender: &Contender, peers: &Peers) -> Self {
        let ours = || env!("CARGO_PKG_VERSION").to_owned();
        Self {
            name: contender.name,
            version: contender.package.map_or_else(ours, |package| peers.version(package)),
            missing: None,
            first: None,
            runs: Vec::new(),
            processes: 0,
            execs: 0,
        }
    }

    fn whole(&self) -> Spread {
        Spread::of(self.runs.iter().map(|run| ms(run.whole)))
    }

    fn there(&self) -> Spread {
        Spread::of(self.runs.iter().map(|run| ms(run.there)))
    }

    /// The time that the TPM itself took, without the bus.
    fn tpm(&self) -> Spread {
        Spread::of(self.runs.iter().map(|run| run.commands.iter().map(|e| ms(e.took)).sum()))
    }

    fn rss(&self) -> u64 {
        self.runs.iter().map(|run| run.rss).max().unwrap_or(0)
    }

    fn commands(&self) -> &[Exchange] {
        self.runs.last().map_or(&[], |run| &run.commands)
    }

    fn swaps(&self) -> usize {
        let swap = [command::CONTEXT_LOAD, command::CONTEXT_SAVE];
        self.commands().iter().filter(|e| e.code().is_some_and(|c| swap.contains(&c))).count()
    }

    /// Bytes on the TPM's bus.
    fn bytes(&self) -> usize {
        self.commands().iter().map(|e| e.request.len() + e.response.len()).sum()
    }

    /// Whether what the TPM kept passed in clear. None where it gave nothing out.
    fn in_clear(&self) -> Option<bool> {
        let mut gave = false;
        for run in &self.runs {
            for exchange in run.commands.iter().filter(|e| e.response_code() == Some(0)) {
                if matches!(exchange.code(), Some(UNSEAL | command::NV_READ)) {
                    gave = true;
                    if !answer_is_encrypted(exchange) {
                        return Some(true);
                    }
                }
            }
            if let Some(secret) = &run.secret
                && wire::leaks(&run.commands, secret, PIECE) > 0
            {
                return Some(true);
            }
        }
        gave.then_some(false)
    }
}

/// Whether a session of this command encrypts the answer's first parameter (TCG Part
/// 1, 18.7: handles, size, then handle, nonce, attributes and HMAC of each session).
fn answer_is_encrypted(exchange: &Exchange) -> bool {
    let request = &exchange.request;
    let sized = |at: usize| -> Option<usize> {
        let size = request.get(at..at + 2)?.try_into().ok()?;
        Some(at + 2 + usize::from(u16::from_be_bytes(size)))
    };
    let mut at = command::HEADER + 4 * exchange.handles().len();
    let Some(size) = request.get(at..at + 4).and_then(|s| s.try_into().ok()) else { return false };
    let end = at + 4 + usize::try_from(u32::from_be_bytes(size)).unwrap_or(0);
    at += 4;
    while request.starts_with(&SESSIONS) && at < end {
        let Some(attributes) = sized(at + 4) else { return false };
        if request.get(attributes).is_some_and(|byte| byte & ENCRYPT != 0) {
            return true;
        }
        let Some(next) = sized(attributes + 1) else { return false };
        at = next;
    }
    false
}

impl Figures {
    pub(crate) fn new(guest: &Guest, peers: &Peers) -> Self {
        let all = ALL.iter().map(|contender| Of::new(contender, peers)).collect();
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().next().unwrap_or("?").to_owned();
        Self { all, recovery: None, unseal: guest.unseal, load }
    }

    fn of(&mut self, contender: &Contender) -> &mut Of {
        let found = self.all.iter_mut().find(|of| of.name == contender.name);
        found.expect("every contender is there from the beginning")
    }

    /// It cannot be measured, because of this.
    pub(crate) fn missing(&mut self, contender: &Contender, why: String) {
        self.of(contender).missing = Some(why);
    }

    pub(crate) fn has(&self, contender: &Contender) -> bool {
        self.all.iter().any(|of| of.name == contender.name && of.missing.is_none())
    }

    pub(crate) fn add(&mut self, contender: &Contender, run: Run, first: bool) {
        let of = self.of(contender);
        if first {
            of.first = Some(run);
        } else {
            of.runs.push(run);
        }
    }

    pub(crate) fn processes(&mut self, contender: &Contender, run: &Run) {
        let of = self.of(contender);
        (of.processes, of.execs) = (run.processes, run.execs);
    }

    pub(crate) fn recovery(&mut self, recovery: Recovery) {
        self.recovery = Some(recovery);
    }

    fn find(&self, contender: Contender) -> &Of {
        let found = self.all.iter().find(|of| of.name == contender.name);
        found.expect("every contender is there from the beginning")
    }

    /// Ratios of the rounds: the time of the one to that of the other.
    fn ratio(of: &Of, floor: &Of, time: impl Fn(&Run) -> Duration) -> Spread {
        let pairs = of.runs.iter().zip(&floor.runs);
        Spread::of(pairs.map(|(a, b)| ms(time(a)) / ms(time(b))))
    }

    /// A table for people.
    pub(crate) fn text(&self, floor: Contender, ours: Contender) -> String {
        let floor = self.find(floor);
        let rounds = floor.runs.len();
        let mut out = format!(
            "opening a LUKS2 root, one boot of the emulated board, {rounds} rounds in turn (host's load: \
             {}); ms\n{:<20} {:<20} {:>24} {:>7} {:>18} {:>9} {:>9} {:>9} {:>6} {:>5}\n",
            self.load,
            "",
            "version",
            "exec to end",
            "there",
            "ratio to the end",
            "TPM cmds",
            "bus bytes",
            "processes",
            "KiB",
            "clear"
        );
        for of in &self.all {
            if let Some(why) = &of.missing {
                let _ = writeln!(out, "{:<20} {:<20} not measured: {why}", of.name, of.version);
                continue;
            }
            let (whole, ratio) = (of.whole(), Self::ratio(of, floor, |run| run.whole));
            let _ = writeln!(
                out,
                "{:<20} {:<20} {:>6.0} ({:>6.0} ..{:>6.0}) {:>7.0} {:>5.2} ({:>4.2}..{:>5.2}) \
                 {:>4} ({:>2}) {:>9} {:>4} /{:>3} {:>6} {:>5}",
                of.name,
                of.version,
                whole.median,
                whole.min,
                whole.max,
                of.there().median,
                ratio.median,
                ratio.min,
                ratio.max,
                of.commands().len(),
                of.swaps(),
                of.bytes(),
                of.processes,
                of.execs,
                of.rss(),
                match of.in_clear() {
                    Some(true) => "yes",
                    Some(false) => "no",
                    None => "-",
                },
            );
        }
        let ours = self.find(ours);
        let ratio = Self::ratio(ours, floor, |run| run.there);
        let (there, floors) = (ours.there(), floor.there());
        let _ = writeln!(
            out,
            "\nexec to /dev/mapper/root: {:.2} times cryptsetup's ({:.2}..{:.2}; by the medians \
             {:.2}, by the shortest {:.2}); goal: at most {GOAL}",
            ratio.median,
            ratio.min,
            ratio.max,
            there.median / floors.median,
            there.min / floors.min,
        );
        let first = ours.first.as_ref().map_or(f64::NAN, |run| ms(run.whole));
        let _ = writeln!(
            out,
            "the first time in this boot, when QEMU translates its code, not counted: {first:.0} ms"
        );
        let stages = ours.stages();
        let speaking: f64 =
            stages.iter().filter(|s| TPM_STAGES.contains(&&*s.0)).map(|s| s.1).sum();
        let _ = writeln!(
            out,
            "initramfs-unseal ({} bytes) by its own report; {speaking:.0} ms are in stages that \
             speak to the TPM, and swtpm itself has {:.1} ms of them:",
            self.unseal,
            ours.tpm().median,
        );
        for (stage, took) in stages {
            let _ = writeln!(out, "  until {stage:<12} {took:>4.0} ms");
        }
        if let Some(recovery) = &self.recovery {
            let _ = writeln!(
                out,
                "recovery path: {:.2} s from the last letter to the open root (argon2id on an \
                 emulated processor), {} KiB; cryptsetup open with the key in a file: {:.2} s",
                recovery.ours.as_secs_f64(),
                recovery.rss,
                recovery.cryptsetup.as_secs_f64()
            );
        }
        out.push_str(
            "there: exec to the name in /dev/mapper. TPM cmds: on the wire (of them context saves and \
             loads). processes / execs.\nKiB: largest resident set. clear: what the TPM kept \
             passes on its bus unencrypted.\n",
        );
        out
    }

    /// The same for a machine.
    pub(crate) fn json(&self, floor: Contender, ours: Contender) -> Value {
        let floor = self.find(floor);
        let all: Vec<Value> = self
            .all
            .iter()
            .map(|of| match &of.missing {
                Some(why) => json!({ "name": of.name, "version": of.version, "missing": why }),
                None => json!({
                    "name": of.name,
                    "version": of.version,
                    "exec_to_end_ms": of.whole().json(),
                    "exec_to_device_ms": of.there().json(),
                    "rounds": of.runs.len(),
                    "ratio_to_end": Self::ratio(of, floor, |run| run.whole).json(),
                    "ratio_to_device": Self::ratio(of, floor, |run| run.there).json(),
                    "tpm_ms": of.tpm().json(),
                    "tpm_commands": of.commands().len(),
                    "tpm_context_swaps": of.swaps(),
                    "tpm_bus_bytes": of.bytes(),
                    "processes": of.processes,
                    "execs": of.execs,
                    "peak_rss_kib": of.rss(),
                    "key_in_clear": of.in_clear(),
                }),
            })
            .collect();
        json!({
            "schema": "msec-boot/bench-unlock/1",
            "rounds": floor.runs.len(),
            "unlock": all,
            "goal": {
                "ratio_to_device": Self::ratio(self.find(ours), floor, |run| run.there).json(),
                "at_most": GOAL,
            },
            "stages_ms": self.find(ours).stages().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "first_in_boot_ms": self.find(ours).first.as_ref().map(|run| round(ms(run.whole))),
            "host_load": self.load,
            "recovery": self.recovery.as_ref().map(|recovery| json!({
                "typed_to_open_ms": round(ms(recovery.ours)),
                "peak_rss_kib": recovery.rss,
                "cryptsetup_key_file_ms": round(ms(recovery.cryptsetup)),
            })),
            "program_bytes": self.unseal,
        })
    }
}

impl Of {
    /// Where the time went by initramfs-unseal's own reports: the median of each stage,
    /// in whole milliseconds.
    fn stages(&self) -> Vec<(String, f64)> {
        let timeline = |run: &Run| -> Option<Vec<(String, f64)>> {
            let stages = run.report.as_ref()?["timeline"].as_array()?;
            let one =
                |stage: &Value| Some((stage["stage"].as_str()?.to_owned(), stage["ms"].as_f64()?));
            stages.iter().map(one).collect()
        };
        let runs: Vec<_> = self.runs.iter().filter_map(timeline).collect();
        let Some(last) = runs.last() else { return Vec::new() };
        let took = |run: &Vec<(String, f64)>, at: usize| Some(run.get(at)?.1 - run.get(at - 1)?.1);
        (1..last.len())
            .map(|at| {
                (last[at].0.clone(), Spread::of(runs.iter().filter_map(|r| took(r, at))).median)
            })
            .collect()
    }
}
