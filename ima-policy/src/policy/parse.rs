//! From a line to a rule.

use pcr_measure::text::printable;

use super::rule::{Access, Action, AppraiseType, Compare, Hook, Label, Mask, Owner, Rule, Subject};
use super::{MAX_RULE, RuleError};
use crate::list::Template;

/// IMA's PCRs are those of a TPM. (The kernel would take numbers up to 63.)
const PCRS: u8 = 24;

/// Most items of a list: keyrings, kinds, hashes.
const MAX_ITEMS: usize = 64;

impl Rule {
    /// Reads a rule, and checks that its parts go together, as the kernel does.
    ///
    /// Numbers are taken as people write them: digits, and `0x` before a magic number. The
    /// kernel also takes a `+`, and PCRs that no TPM has.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn parse(line: &str) -> Result<Self, RuleError> {
        if line.len() > MAX_RULE {
            return Err(RuleError::Long(line.len()));
        }
        let mut reading = Reading { action: None, rule: Self::new(Action::Measure) };
        for word in line.split([' ', '\t']).filter(|word| !word.is_empty()) {
            reading.word(word)?;
        }
        reading.rule.action = reading.action.ok_or(RuleError::NoAction)?;
        reading.rule.validate()?;
        Ok(reading.rule)
    }
}

struct Reading {
    action: Option<Action>,
    rule: Rule,
}

/// Words with a value behind `=`, apart from labels and numbers of users.
const WORDS: [&str; 14] = [
    "func",
    "mask",
    "fsmagic",
    "fsname",
    "fsuuid",
    "keyrings",
    "label",
    "digest_type",
    "appraise_type",
    "appraise_flag",
    "appraise_algos",
    "pcr",
    "template",
    "permit_directio",
];

impl Reading {
    fn word(&mut self, word: &str) -> Result<(), RuleError> {
        if let Some(action) = Action::of(word) {
            return once("action", &mut self.action, action);
        }
        let unknown = || RuleError::Word(printable(word));
        let at = word.find(['=', '<', '>']).unwrap_or(word.len());
        let (name, rest) = word.split_at_checked(at).ok_or_else(unknown)?;
        let (operator, value) = rest.split_at_checked(1.min(rest.len())).ok_or_else(unknown)?;
        if let Some(who) = Who::of(name) {
            let compare = Compare::of(operator).ok_or_else(unknown)?;
            return self.number(who, compare, value);
        }
        if let Some(label) = Label::of(name).filter(|_| operator == "=") {
            if value.is_empty() {
                return Err(wrong(label.word(), value));
            }
            return match self.rule.labels.insert(label, value.to_owned()) {
                None => Ok(()),
                Some(_) => Err(RuleError::Twice(label.word())),
            };
        }
        let name = WORDS.into_iter().find(|its| *its == name).ok_or_else(unknown)?;
        let has_value = name != "permit_directio";
        if has_value != (operator == "=") || (!has_value && !operator.is_empty()) {
            return Err(unknown());
        }
        self.condition(name, value)
    }

    fn condition(&mut self, name: &'static str, value: &str) -> Result<(), RuleError> {
        let no = || wrong(name, value);
        let rule = &mut self.rule;
        match name {
            "func" => {
                // Two names of old.
                let hook = match value {
                    "PATH_CHECK" => Some(Hook::FileCheck),
                    "FILE_MMAP" => Some(Hook::MmapCheck),
                    value => Hook::of(value),
                };
                once(name, &mut rule.hook, hook.ok_or_else(no)?)
            }
            "mask" => {
                let (among_others, access) = match value.strip_prefix('^') {
                    Some(access) => (true, access),
                    None => (false, value),
                };
                let access = Access::of(access).ok_or_else(no)?;
                once(name, &mut rule.mask, Mask { access, among_others })
            }
            "fsmagic" => {
                let digits = value.strip_prefix("0x").unwrap_or(value);
                let is_number = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                let magic = u64::from_str_radix(digits, 16).ok().filter(|_| is_number);
                once(name, &mut rule.fsmagic, magic.ok_or_else(no)?)
            }
            "fsname" if value.is_empty() => Err(no()),
            "fsname" => once(name, &mut rule.fsname, value.to_owned()),
            "fsuuid" => once(name, &mut rule.fsuuid, uuid(value).ok_or_else(no)?),
            "keyrings" => several(name, &mut rule.keyrings, value, '|'),
            "label" => several(name, &mut rule.kinds, value, '|'),
            "appraise_algos" => several(name, &mut rule.hashes, value, ','),
            "digest_type" if value != "verity" => Err(no()),
            "digest_type" if rule.appraise_type.is_some() => {
                Err(RuleError::Order { word: "appraise_type", behind: "digest_type" })
            }
            "digest_type" => {
                rule.is_verity = true;
                Ok(())
            }
            "appraise_type" => {
                let how = AppraiseType::of(value).ok_or_else(no)?;
                if (how == AppraiseType::Verity) != rule.is_verity {
                    return Err(match how {
                        AppraiseType::Verity => {
                            RuleError::Order { word: "appraise_type=sigv3", behind: "digest_type" }
                        }
                        _ => no(),
                    });
                }
                // The kernel adds up what is said; one is enough here.
                once(name, &mut rule.appraise_type, how)
            }
            // Not looked at any more.
            "appraise_flag" => Ok(()),
            "permit_directio" => {
                rule.permits_direct_io = true;
                Ok(())
            }
            "pcr" => {
                let pcr = decimal(value).and_then(|pcr| u8::try_from(pcr).ok());
                let pcr = pcr.filter(|pcr| *pcr < PCRS).ok_or_else(no)?;
                rule.pcr = Some(pcr);
                Ok(())
            }
            "template" if self.action != Some(Action::Measure) => {
                Err(RuleError::Order { word: name, behind: "measure" })
            }
            _ => {
                let known = Template::new(value).is_ok();
                once(
                    name,
                    &mut rule.template,
                    Some(value.to_owned()).filter(|_| known).ok_or_else(no)?,
                )
            }
        }
    }

    fn number(&mut self, who: Who, compare: Compare, value: &str) -> Result<(), RuleError> {
        let id = decimal(value).filter(|id| *id != u32::MAX);
        let id = id.ok_or_else(|| wrong(who.name(), value))?;
        let rule = &mut self.rule;
        let subject = |is_effective| Subject { is_effective, compare, id };
        match who {
            Who::Uid => once("uid", &mut rule.user, subject(false)),
            Who::Euid => once("uid", &mut rule.user, subject(true)),
            Who::Gid => once("gid", &mut rule.group, subject(false)),
            Who::Egid => once("gid", &mut rule.group, subject(true)),
            Who::Fowner => once("fowner", &mut rule.file_user, Owner { compare, id }),
            Who::Fgroup => once("fgroup", &mut rule.file_group, Owner { compare, id }),
        }
    }
}

/// Whose number is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Uid,
    Euid,
    Gid,
    Egid,
    Fowner,
    Fgroup,
}

impl Who {
    const ALL: [Self; 6] =
        [Self::Uid, Self::Euid, Self::Gid, Self::Egid, Self::Fowner, Self::Fgroup];

    const fn name(self) -> &'static str {
        match self {
            Self::Uid => "uid",
            Self::Euid => "euid",
            Self::Gid => "gid",
            Self::Egid => "egid",
            Self::Fowner => "fowner",
            Self::Fgroup => "fgroup",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|who| who.name() == name)
    }
}

fn wrong(word: &'static str, value: &str) -> RuleError {
    RuleError::Value { word, value: printable(value) }
}

fn once<T>(word: &'static str, place: &mut Option<T>, value: T) -> Result<(), RuleError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(RuleError::Twice(word)),
    }
}

fn several(
    word: &'static str,
    place: &mut Vec<String>,
    value: &str,
    between: char,
) -> Result<(), RuleError> {
    if !place.is_empty() {
        return Err(RuleError::Twice(word));
    }
    let items: Vec<String> = value.split(between).take(MAX_ITEMS + 1).map(str::to_owned).collect();
    if items.len() > MAX_ITEMS || items.iter().any(String::is_empty) {
        return Err(wrong(word, value));
    }
    *place = items;
    Ok(())
}

fn decimal(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// `8-4-4-4-12` hexadecimal digits (Linux, lib/uuid.c, `uuid_is_valid`).
fn uuid(text: &str) -> Option<[u8; 16]> {
    let at_dash = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    let fits = text.bytes().enumerate().all(|(at, byte)| (byte == b'-') == at_dash(at));
    let digits: String = text.chars().filter(|letter| *letter != '-').collect();
    let bytes = hex::decode(digits).ok().filter(|_| fits && text.len() == 36)?;
    // No rule has the UUID of nothing: to the kernel it is none.
    bytes.try_into().ok().filter(|bytes| *bytes != [0; 16])
}
