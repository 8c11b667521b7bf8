//! Watching a measurement list that grows: what in it is to be told, as it comes.
//!
//! [`Watch`] takes the records one by one, judges each ([`crate::judge`]), replays them
//! towards the PCR, and yields [`Report`]s. It reads and sends nothing itself: [`source`] has
//! the files, [`syslog`] the socket. What it keeps does not grow with the list.
//!
//! **Trust:** it runs on the device that it watches. Who has taken the kernel tells it what he
//! likes; the PCR of a quote, verified elsewhere, is the answer to that.

mod filter;
mod modules;
mod report;
pub mod source;
pub mod syslog;

use std::collections::BTreeSet;

use pcr_measure::digest::{Algorithm, Digest};
use pcr_measure::pcr::PcrIndex;

use crate::judge::{Fault, Judge, Judged, Signed};
use crate::list::replay::{Filling, Replay};
use crate::list::{Field, ListError, Record};

pub use filter::Filter;
use modules::Explained;
pub use modules::of_proc;
pub use report::{Event, Report, Severity};

/// What the kernel calls a module that came as memory (Linux, ima_main.c,
/// `ima_post_load_data`): its name is not told.
const INIT_MODULE: &[u8] = b"init_module";

/// What a record is about, as far as it tells: the list does not say which hook measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Module,
    Firmware,
    Policy,
    Key,
    Other,
}

impl Kind {
    /// By what the kernel was given, or else by the name it had.
    fn of(record: &Record, name: &[u8]) -> Self {
        let is_below = |dirs: &[&str]| dirs.iter().any(|dir| name.starts_with(dir.as_bytes()));
        if let Some(buffer) = record.field(Field::Buffer) {
            if name == INIT_MODULE {
                return Self::Module;
            }
            // A key is called by its keyring; the kernel's own keyrings begin with a dot. One of
            // somebody's own (`keyrings=`) is told by what was added.
            let is_key = name.starts_with(b".") || crate::signature::is_certificate(buffer);
            return if is_key { Self::Key } else { Self::Other };
        }
        let is_appended = record.field(Field::Modsig).is_some_and(|its| !its.is_empty());
        if modules::of_path(name).is_some() || is_appended {
            Self::Module
        } else if is_below(&["/lib/firmware/", "/usr/lib/firmware/"]) {
            Self::Firmware
        } else if is_below(&["/etc/ima/"]) {
            Self::Policy
        } else {
            Self::Other
        }
    }

    const fn event(self) -> Option<Event> {
        match self {
            Self::Module => Some(Event::Module),
            Self::Firmware => Some(Event::Firmware),
            Self::Policy => Some(Event::Policy),
            Self::Key => Some(Event::Key),
            Self::Other => None,
        }
    }
}

/// Where the PCR stands by what was read of the list.
#[derive(Debug)]
enum Pcr {
    /// Nothing is known of it, or all of it is explained.
    Explained,
    /// It had this value before the list was read to its end: that has to lead to it.
    Ahead(Digest),
    /// The list does not lead to it, or could not be read wholly.
    Lost,
}

/// A list that is being watched.
#[derive(Debug)]
pub struct Watch<'a> {
    judge: Judge<'a>,
    replay: Replay,
    index: PcrIndex,
    now: Digest,
    before: Digest,
    pcr: Pcr,
    entries: u64,
    explained: Explained,
    /// Known modules that came as memory, and have not been found among the loaded ones.
    from_memory: u64,
    unexplained: BTreeSet<String>,
}

/// Most modules without a record that are remembered as told. A kernel has a few hundred.
const MAX_UNEXPLAINED: usize = 4096;

impl<'a> Watch<'a> {
    /// Watches a list from its beginning, and this PCR of the SHA-256 bank.
    #[must_use]
    pub fn new(judge: Judge<'a>, index: PcrIndex) -> Self {
        // Older kernels than 5.8, which fill this bank with SHA-1, show no PCRs either.
        let replay = Replay::new(Algorithm::Sha256, Filling::Hashed);
        let now = replay.value(index);
        Self {
            judge,
            replay,
            index,
            now,
            before: now,
            pcr: Pcr::Explained,
            entries: 0,
            explained: Explained::default(),
            from_memory: 0,
            unexplained: BTreeSet::new(),
        }
    }

    /// Records so far.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.entries
    }

    /// Goes on by one record.
    ///
    /// # Errors
    /// That this build has no such hash.
    pub fn record(&mut self, record: &Record) -> Result<Vec<Report>, ListError> {
        self.entries += 1;
        self.replay.add(record)?;
        let value = self.replay.value(self.index);
        if value != self.now {
            self.before = std::mem::replace(&mut self.now, value);
        }
        if matches!(&self.pcr, Pcr::Ahead(expected) if *expected == self.now) {
            self.pcr = Pcr::Explained;
        }
        let name = record.name().unwrap_or_default();
        if let Some(module) = modules::of_path(name).filter(|_| !record.is_violation()) {
            self.explained.add(module);
        }
        let judged = self.judge.look(self.entries, record)?;
        if name == INIT_MODULE && record.field(Field::Buffer).is_some() && judged.is_known {
            self.from_memory += 1;
        }
        Ok(self.reports(record, name, judged))
    }

    fn reports(&self, record: &Record, name: &[u8], judged: Judged) -> Vec<Report> {
        let kind = Kind::of(record, name);
        let report = |event, severity| {
            Report::new(event, severity).about(self.entries, record).judged(judged)
        };
        let own = match (judged.fault, kind.event()) {
            (Some(Fault::Violation), _) => Some(report(Event::Violation, Severity::Warning)),
            (Some(Fault::Broken), _) => Some(report(Event::Broken, Severity::Alert)),
            (Some(Fault::OtherBoot), _) => Some(report(Event::OtherBoot, Severity::Alert)),
            // What the kernel takes in, or trusts from now on.
            (Some(_), Some(event)) => Some(report(event, Severity::Alert)),
            (None, Some(event)) if judged.is_known => Some(report(event, Severity::Info)),
            (None, Some(event)) => Some(report(event, Severity::Notice)),
            (Some(Fault::Changed), None) => Some(report(Event::Changed, Severity::Error)),
            (Some(Fault::BadSignature), None) => Some(report(Event::BadSignature, Severity::Error)),
            (Some(Fault::Buffer), None) => Some(report(Event::Broken, Severity::Alert)),
            (Some(Fault::Unknown | Fault::OtherHash | Fault::Nameless), None) => {
                Some(report(Event::Unknown, Severity::Warning))
            }
            (None, None) => None,
        };
        // The reference knows it, and nobody signed it. A template without signatures says
        // nothing about them, and neither does the first entry, which is no file.
        let has_signatures = [Field::Signature, Field::EvmSignature]
            .into_iter()
            .any(|field| record.field(field).is_some());
        let is_unsigned = self.judge.keyring.is_some()
            && matches!(judged.signed, Signed::Not | Signed::OtherKey)
            && has_signatures
            && judged.fault.is_none()
            && name.starts_with(b"/");
        let unsigned = is_unsigned.then(|| report(Event::Unsigned, Severity::Notice));
        own.into_iter().chain(unsigned).collect()
    }

    /// A record that cannot be read: what it says is not known, and from here on nothing leads
    /// to the PCR.
    pub fn unreadable(&mut self, error: &ListError) -> Report {
        self.entries += 1;
        self.pcr = Pcr::Lost;
        Report::new(Event::Unreadable, Severity::Alert).because(&error.to_string())
    }

    /// The value of the PCR, taken *before* the list is read to its end: that end leads to it,
    /// since the kernel adds a record before it extends the PCR with it
    /// (`ima_add_template_entry`). For the same reason the PCR may be one record behind.
    pub fn pcr(&mut self, value: Digest) {
        if matches!(self.pcr, Pcr::Explained) && ![self.now, self.before].contains(&value) {
            self.pcr = Pcr::Ahead(value);
        }
    }

    /// The list was read to its end. Modules are names of those that were loaded before
    /// that ([`of_proc`]): each has to have a record.
    pub fn is_read(&mut self, modules: &BTreeSet<String>) -> Vec<Report> {
        let mut reports = Vec::new();
        if let Pcr::Ahead(value) = &self.pcr {
            let why = format!("PCR {} is {value}, the list leads to {}", self.index, self.now);
            reports.push(Report::new(Event::PcrMismatch, Severity::Alert).because(&why));
            self.pcr = Pcr::Lost;
        }
        // One that is unloaded and loaded again is told again.
        self.unexplained.retain(|name| modules.contains(name));
        for name in modules {
            // One that is known is whichever has no record of its own.
            let is_new = !self.explained.has(name) && !self.unexplained.contains(name);
            if is_new && self.from_memory > 0 {
                self.from_memory -= 1;
                self.explained.add(name.clone());
            }
            let room = self.unexplained.len() < MAX_UNEXPLAINED;
            if !self.explained.has(name) && room && self.unexplained.insert(name.clone()) {
                let report = Report::new(Event::ModuleUnmeasured, Severity::Alert);
                reports.push(report.named(name.as_bytes()));
            }
        }
        reports
    }

    /// The list became shorter, which the kernel's never does: all of it is read again.
    pub fn shrank(&mut self, was: u64, is: u64) -> Report {
        let (judge, index) = (self.judge, self.index);
        let unexplained = std::mem::take(&mut self.unexplained);
        *self = Self { unexplained, ..Self::new(judge, index) };
        let why = format!("it had {was} entries or bytes, and has {is}");
        Report::new(Event::Shrank, Severity::Alert).because(&why)
    }
}

#[cfg(test)]
mod tests;
