//! Quarantine: a device that keeps its network but for a few addresses.
//!
//! A packet filter's table of our own drops whatever is not allowed ([`ruleset`]); what other
//! tables drop stays dropped, and what they let through does not matter. [`State`] is what is
//! kept on the disk, so that the next boot begins as this one ends.
//!
//! It is the device's own doing. An intruder who has become root can undo it; one whose program
//! was merely run cannot. The network's own means (a switch's port) stand behind it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The one schema that is read and written.
const SCHEMA: &str = "msec-boot/quarantine/1";
/// Most bytes of a state that are read.
pub const MAX_STATE: usize = 64 << 10;
/// Name of the table, of nftables' family `inet`.
pub const TABLE: &str = "ima_policy_quarantine";
/// Chains of the table, one for each way that a packet can take.
const CHAINS: [&str; 3] = ["input", "forward", "output"];

/// What is wrong with an address or a state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuarantineError {
    /// No address.
    #[error("{0:?} is no address: write 192.0.2.1, 192.0.2.0/24, 2001:db8::1 or 2001:db8::/64")]
    Address(String),
    /// All addresses.
    #[error("{0:?} is every address: a quarantine allows a few")]
    Everything(String),
    /// No address at all.
    #[error("no address is allowed: name those that may still reach the device")]
    Nobody,
    /// No state.
    #[error("the state is none: {0}")]
    Json(#[from] serde_json::Error),
    /// Another schema.
    #[error("the state's schema is {0:?}; this program reads {SCHEMA:?}")]
    Schema(String),
    /// nft's answer.
    #[error("what nft lists is not understood")]
    Listing,
}

/// An address, or all that begin like it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Allowed {
    address: IpAddr,
    /// Bits that count: 1 to 32 or 128.
    prefix: u8,
}

impl Allowed {
    /// Whether an address is one of these.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        let (own, other, bits) = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (u128::from(own.to_bits()), u128::from(other.to_bits()), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits(), 128),
            _ => return false,
        };
        // 1 to `bits` of them count: no shift by all of them.
        (own ^ other) >> (bits - self.prefix) == 0
    }
}

impl FromStr for Allowed {
    type Err = QuarantineError;

    fn from_str(text: &str) -> Result<Self, QuarantineError> {
        let wrong = || QuarantineError::Address(text.chars().take(80).collect());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|bits| *bits <= most).ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        match prefix {
            0 => Err(QuarantineError::Everything(text.to_owned())),
            prefix => Ok(Self { address, prefix }),
        }
    }
}

impl TryFrom<String> for Allowed {
    type Error = QuarantineError;

    fn try_from(text: String) -> Result<Self, QuarantineError> {
        text.parse()
    }
}

impl From<Allowed> for String {
    fn from(allowed: Allowed) -> Self {
        allowed.to_string()
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// What is kept on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Who may still reach the device, and be reached.
    pub allow: Vec<Allowed>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Json {
    schema: String,
    allow: Vec<Allowed>,
}

impl State {
    /// These addresses, in order, each once.
    ///
    /// # Errors
    /// [`QuarantineError::Nobody`].
    pub fn new(mut allow: Vec<Allowed>) -> Result<Self, QuarantineError> {
        allow.sort_unstable();
        allow.dedup();
        if allow.is_empty() { Err(QuarantineError::Nobody) } else { Ok(Self { allow }) }
    }

    /// Reads what [`Self::to_json`] wrote.
    ///
    /// # Errors
    /// [`QuarantineError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, QuarantineError> {
        let json: Json = serde_json::from_slice(bytes)?;
        if json.schema != SCHEMA {
            return Err(QuarantineError::Schema(json.schema));
        }
        Self::new(json.allow)
    }

    /// As JSON.
    ///
    /// # Errors
    /// None in practice.
    pub fn to_json(&self) -> Result<Vec<u8>, QuarantineError> {
        let json = Json { schema: SCHEMA.to_owned(), allow: self.allow.clone() };
        let mut text = serde_json::to_vec_pretty(&json)?;
        text.push(b'\n');
        Ok(text)
    }
}

/// The table that lets these addresses through and nothing else, as `nft -f` reads it: in one
/// step, whether there was such a table or not. Without any address it is the machine alone.
///
/// Beside the addresses it lets through what they need: the machine itself, neighbour discovery
/// (ARP is no business of this table's), and a lease from a DHCP server of the link, without
/// which the device could not be reached after a while. A request for a lease goes to everybody
/// on the link and not to a chosen address.
#[must_use]
pub fn ruleset(allow: &[Allowed]) -> String {
    let set = |name: &str, kind: &str, is_v4: bool| {
        let all = allow.iter().filter(|its| its.address.is_ipv4() == is_v4);
        let all: Vec<_> = all.map(ToString::to_string).collect();
        let elements = match all.is_empty() {
            true => String::new(),
            false => format!("\t\telements = {{ {} }}\n", all.join(", ")),
        };
        format!(
            "\tset {name} {{\n\t\ttype {kind}\n\t\tflags interval\n\t\tauto-merge\n{elements}\t}}\n"
        )
    };
    let chain = |name: &str, rules: &[&str]| {
        let rules: String = rules.iter().map(|rule| format!("\t\t{rule}\n")).collect();
        // Before every other table's filter (nft(8), priority names: raw).
        let hook = format!("type filter hook {name} priority raw; policy drop;");
        format!("\tchain {name} {{\n\t\t{hook}\n{rules}\t}}\n")
    };
    // RFC 4861, 7.1: what comes from beyond the link has a lower hop limit.
    let neighbours = "ip6 hoplimit 255 icmpv6 type";
    let [input, forward, output] = CHAINS;
    [
        format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n"),
        set("allowed4", "ipv4_addr", true),
        set("allowed6", "ipv6_addr", false),
        chain(
            input,
            &[
                "iifname \"lo\" accept",
                "ip saddr @allowed4 accept",
                "ip6 saddr @allowed6 accept",
                &format!(
                    "{neighbours} {{ nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert }} accept"
                ),
                "udp sport 67 udp dport 68 accept",
                "ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept",
            ],
        ),
        chain(forward, &[]),
        chain(
            output,
            &[
                "oifname \"lo\" accept",
                "ip daddr @allowed4 accept",
                "ip6 daddr @allowed6 accept",
                &format!(
                    "{neighbours} {{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert }} accept"
                ),
                "ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
                "ip6 daddr ff02::1:2 udp sport 546 udp dport 547 accept",
            ],
        ),
        "}\n".to_owned(),
    ]
    .concat()
}

/// Takes the table away, as `nft -f` reads it, whether there is one or not.
#[must_use]
pub fn removal() -> String {
    format!("table inet {TABLE}\ndelete table inet {TABLE}\n")
}

/// Whether the table is in force, from what `nft -j list ruleset` says: it is there, and drops on
/// each way what it does not let through.
///
/// # Errors
/// [`QuarantineError::Json`], [`QuarantineError::Listing`].
pub fn is_in_force(listing: &[u8]) -> Result<bool, QuarantineError> {
    #[derive(Deserialize)]
    struct Listing {
        nftables: Vec<serde_json::Value>,
    }
    let listing: Listing = serde_json::from_slice(listing)?;
    if listing.nftables.is_empty() {
        // It says at least which version of nft this is.
        return Err(QuarantineError::Listing);
    }
    let drops = |hook: &&str| {
        listing.nftables.iter().filter_map(|its| its.get("chain")).any(|chain| {
            let is = |field: &str, value: &str| chain.get(field).is_some_and(|its| its == value);
            is("family", "inet") && is("table", TABLE) && is("hook", hook) && is("policy", "drop")
        })
    };
    Ok(CHAINS.iter().all(drops))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_covers_those_that_begin_like_it() {
        for (own, other, covered) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.0/24", "192.0.2.255", true),
            ("192.0.2.0/24", "192.0.3.0", false),
            ("128.0.0.0/1", "255.0.0.1", true),
            ("2001:db8::/64", "2001:db8::ffff:0:0:1", true),
            ("2001:db8::/64", "2001:db8:0:1::1", false),
            ("8000::/1", "c000:201::", true),
            ("192.0.2.1", "::ffff:192.0.2.1", false),
        ] {
            let own: Allowed = own.parse().unwrap();
            assert_eq!(own.covers(other.parse().unwrap()), covered, "{own} {other}");
        }
    }

    #[test]
    fn addresses_are_a_few() {
        for (text, told) in [
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("2001:db8::/64", "2001:db8::/64"),
        ] {
            assert_eq!(text.parse::<Allowed>().unwrap().to_string(), told);
        }
        for text in
            ["", "host", "192.0.2.1/33", "::/129", "192.0.2.1/", "192.0.2.1/+8", "192.0.2.1 }"]
        {
            let error = text.parse::<Allowed>().unwrap_err();
            assert!(matches!(error, QuarantineError::Address(_)), "{text}: {error}");
        }
        for text in ["0.0.0.0/0", "::/0"] {
            let error = text.parse::<Allowed>().unwrap_err();
            assert!(matches!(error, QuarantineError::Everything(_)), "{error}");
        }
    }

    #[test]
    fn a_state_is_kept_and_read() {
        let allow = ["::1", "192.0.2.1", "192.0.2.1/32"].map(|text| text.parse().unwrap());
        let state = State::new(allow.to_vec()).unwrap();
        assert_eq!(state.allow.len(), 2);
        assert_eq!(State::from_json(&state.to_json().unwrap()).unwrap(), state);
        assert!(matches!(State::new(Vec::new()), Err(QuarantineError::Nobody)));
        let text = String::from_utf8(state.to_json().unwrap()).unwrap();
        for (from, to) in [("quarantine/1", "quarantine/2"), ("192.0.2.1/32", "x"), ("allow", "a")]
        {
            let changed = text.replace(from, to);
            assert_ne!(changed, text);
            State::from_json(changed.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn a_table_that_lets_through_is_not_in_force() {
        let chain = |hook: &str, policy: &str| {
            format!(
                r#"{{"chain":{{"family":"inet","table":"{TABLE}","name":"{hook}","hook":"{hook}","policy":"{policy}"}}}}"#
            )
        };
        let listing = |policies: [&str; 3]| {
            let chains = CHAINS.iter().zip(policies).map(|(hook, policy)| chain(hook, policy));
            let all: Vec<_> = [r#"{"metainfo":{}}"#.to_owned()].into_iter().chain(chains).collect();
            format!(r#"{{"nftables":[{}]}}"#, all.join(","))
        };
        let is = |listing: String| is_in_force(listing.as_bytes()).unwrap();
        assert!(is(listing(["drop"; 3])));
        for n in 0..3 {
            let mut policies = ["drop"; 3];
            policies[n] = "accept";
            assert!(!is(listing(policies)));
        }
        assert!(!is(r#"{"nftables":[{"metainfo":{}}]}"#.to_owned()));
        assert!(!is(listing(["drop"; 3]).replace(TABLE, "other")));
        is_in_force(br#"{"nftables":[]}"#).unwrap_err();
        is_in_force(b"").unwrap_err();
    }
}
