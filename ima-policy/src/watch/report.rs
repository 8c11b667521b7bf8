//! What is told, and how it is written.

use pcr_measure::text::printable;
use serde::{Serialize, Serializer};

use crate::judge::{Fault, Judged, Signed};
use crate::list::{FileDigest, Prefix, Record};
use crate::reference::escaped;

/// What a report is about: stable names, for rules of whoever collects them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// Watching begins.
    Start,
    /// Watching ends.
    Stop,
    /// A file or buffer that neither reference nor keyring knows.
    Unknown,
    /// A file that has other contents than the reference says.
    Changed,
    /// A file that the reference knows, without a signature by the keyring.
    Unsigned,
    /// A file whose signature is not of its contents.
    BadSignature,
    /// A kernel module was read to be loaded.
    Module,
    /// A kernel module is loaded and has no record.
    ModuleUnmeasured,
    /// Firmware was loaded.
    Firmware,
    /// An IMA policy was loaded.
    Policy,
    /// A key was added to a keyring.
    Key,
    /// A file was written while it was measured, or read while it was written.
    Violation,
    /// The firmware's PCRs are not those of the first record.
    OtherBoot,
    /// A record contradicts itself.
    Broken,
    /// A record cannot be read.
    Unreadable,
    /// The list became shorter.
    Shrank,
    /// The list does not lead to the PCR.
    PcrMismatch,
    /// Reports were left out.
    LeftOut,
}

/// How urgent, by the numbers of RFC 5424, 6.2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Somebody has to act now.
    Alert = 1,
    /// Something is wrong.
    Error = 3,
    /// Something may be wrong.
    Warning = 4,
    /// Normal, and worth a look.
    Notice = 5,
    /// For the record.
    Info = 6,
}

impl Severity {
    /// As many as there are numbers up to the least urgent.
    pub(super) const NUMBERS: usize = Self::Info as usize + 1;
}

/// Longest name that is told whole, as JSON has it, in bytes: a line fits what rsyslog takes
/// by default (8 KiB).
const MAX_NAME: usize = 2048;

/// Longest detail, in letters.
const MAX_DETAIL: usize = 500;

/// One report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What it is about.
    pub event: Event,
    /// How urgent it is.
    pub severity: Severity,
    /// The place in the list, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<u64>,
    /// The file's or module's name; bytes that are no UTF-8 as `%` and two digits.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "name")]
    pub name: Option<Vec<u8>>,
    /// The digest of its contents, with the algorithm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What its signature is worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signed>,
    /// What happened, where no file is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Reports that were told before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeated: Option<u64>,
    /// Reports that were too many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub too_many: Option<u64>,
}

fn name<S: Serializer>(name: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown(name.as_deref().unwrap_or_default()))
}

/// A name as text, cut where it is longer than a line may be.
fn shown(name: &[u8]) -> String {
    let name = escaped(name);
    let mut size = 0;
    let mut cut = String::new();
    for letter in name.chars() {
        // As `\u` and four digits, once or twice.
        size += if matches!(letter, ' '..='~') { 2 } else { 6 * letter.len_utf16() };
        if size > MAX_NAME {
            cut.push_str("...");
            break;
        }
        cut.push(letter);
    }
    cut
}

impl Report {
    /// One with nothing but what it is about.
    #[must_use]
    pub const fn new(event: Event, severity: Severity) -> Self {
        Self {
            event,
            severity,
            entry: None,
            name: None,
            digest: None,
            fault: None,
            signature: None,
            detail: None,
            repeated: None,
            too_many: None,
        }
    }

    /// About a record.
    pub(super) fn about(mut self, entry: u64, record: &Record) -> Self {
        self.entry = Some(entry);
        self.name = record.name().map(<[u8]>::to_vec);
        self.digest = record.file_digest().map(|digest| {
            let FileDigest { prefix, algorithm, bytes } = digest;
            let verity = if prefix == Some(Prefix::Verity) { "verity:" } else { "" };
            format!("{verity}{algorithm}:{}", hex::encode(bytes))
        });
        self
    }

    pub(super) const fn judged(mut self, judged: Judged) -> Self {
        self.fault = judged.fault;
        self.signature = match judged.signed {
            Signed::Not => None,
            signed => Some(signed),
        };
        self
    }

    pub(super) fn named(mut self, name: &[u8]) -> Self {
        self.name = Some(name.to_vec());
        self
    }

    /// With what happened.
    #[must_use]
    pub fn because(mut self, why: &str) -> Self {
        let plain = |letter| if matches!(letter, ' '..='~') { letter } else { '?' };
        self.detail = Some(why.chars().map(plain).take(MAX_DETAIL).collect());
        self
    }

    pub(super) const fn counted(mut self, repeated: u64, too_many: u64) -> Self {
        (self.repeated, self.too_many) = (Some(repeated), Some(too_many));
        self
    }

    /// What two reports have in common that tell the same: the place in the list does not
    /// count.
    pub(super) fn identity(&self) -> impl std::hash::Hash + '_ {
        (self.event, &self.name, &self.digest, self.fault, &self.detail)
    }

    /// Whether something is wrong.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.severity <= Severity::Warning
    }

    /// One line for people, without control characters.
    #[must_use]
    pub fn told(&self) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        let name = printable(&String::from_utf8_lossy(name));
        let detail = printable(self.detail.as_deref().unwrap_or_default());
        let known = match (self.fault, self.severity) {
            (Some(fault), _) => fault.told(),
            (None, Severity::Notice) => "there is nothing to judge it by",
            (None, _) => "it is known",
        };
        match self.event {
            Event::Start => format!("watching begins: {detail}"),
            Event::Stop => format!("watching ends: {detail}"),
            Event::Module => format!("kernel module {name}: {known}"),
            Event::Firmware => format!("firmware {name}: {known}"),
            Event::Policy => format!("IMA policy {name}: {known}"),
            Event::Key => format!("key added to {name}: {known}"),
            Event::ModuleUnmeasured => {
                format!("kernel module {name} is loaded, and nothing was measured of it")
            }
            Event::Unsigned => format!("{name}: it is known, but no key of the keyring signed it"),
            Event::Unreadable => format!("a record cannot be read: {detail}"),
            Event::Shrank => format!("the list became shorter: {detail}"),
            Event::PcrMismatch => format!("the list does not lead to the PCR: {detail}"),
            Event::LeftOut => {
                let (repeated, too_many) =
                    (self.repeated.unwrap_or_default(), self.too_many.unwrap_or_default());
                format!("{repeated} repeated reports and {too_many} others were left out")
            }
            _ => format!("{name}: {known}"),
        }
    }

    /// As JSON on one line of printable ASCII, with what [`Self::told`] says as `msg`: nothing
    /// in a name begins another line or field, or moves a terminal's cursor.
    #[must_use]
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        struct Line<'a> {
            msg: String,
            ima: &'a Report,
        }
        // Maps with keys of text: it cannot fail.
        let text = serde_json::to_string(&Line { msg: self.told(), ima: self }).unwrap_or_default();
        let mut line = String::with_capacity(text.len());
        for letter in text.chars() {
            // JSON has control characters escaped; what is left stands within strings.
            match letter {
                ' '..='~' => line.push(letter),
                _ => {
                    let mut units = [0; 2];
                    for unit in letter.encode_utf16(&mut units) {
                        line.push_str(&format!("\\u{unit:04x}"));
                    }
                }
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_name_makes_no_line_and_no_field() {
        for name in [
            &b"/tmp/a\n<1>Jan  1 00:00:00 sshd: forged"[..],
            b"/tmp/\",\"severity\":\"info\",\"x\":\"",
            b"/tmp/\x1b[2J\x7f\r\0",
            b"/tmp/\xff\xfe%41",
            "/tmp/\u{202e}\u{1f600}ä".as_bytes(),
        ] {
            let report = Report::new(Event::Unknown, Severity::Warning).named(name);
            let json = report.json();
            assert!(json.chars().all(|letter| matches!(letter, ' '..='~')), "{json}");
            let read: Value = serde_json::from_str(&json).unwrap();
            assert_eq!(read["ima"]["name"], escaped(name).as_str());
            assert_eq!(read["ima"]["severity"], "warning");
            assert_eq!(read.as_object().unwrap().len(), 2);
            assert!(pcr_measure::text::is_printable(&report.told()));
        }
    }

    #[test]
    fn a_long_name_is_cut_to_a_line() {
        for letter in ["a", "\n", "\u{1f600}", "\"", "\\"] {
            let report = Report::new(Event::Changed, Severity::Error)
                .named(letter.repeat(4096 / letter.len()).as_bytes());
            let json = report.json();
            assert!(json.len() < MAX_NAME + 512, "{}", json.len());
            let read: Value = serde_json::from_str(&json).unwrap();
            assert!(read["ima"]["name"].as_str().unwrap().ends_with("..."));
        }
    }
}
