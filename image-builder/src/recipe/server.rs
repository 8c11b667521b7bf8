//! Where a service of the network is.

use std::fmt;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use super::values::{ValueError, refuse};

/// Host and port: `HOST[:PORT]`, an IPv6 address in brackets; the port is `USUAL` unless given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Server<const USUAL: u16> {
    host: HostName,
    port: u16,
}

impl<const USUAL: u16> Server<USUAL> {
    /// The host, an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.host.as_str()
    }

    /// The TCP port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl<const USUAL: u16> TryFrom<String> for Server<USUAL> {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        if text.parse::<Ipv6Addr>().is_ok() {
            return refuse("an IPv6 address stands in brackets");
        }
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, port.strip_prefix(':').or(Some(""))),
            None => match text.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text.as_str(), None),
            },
        };
        let port = port.map_or(Ok(USUAL), str::parse).ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| {
            ValueError(format!("`{}` has no port behind its `:`: 1 to 65535", text.escape_debug()))
        })?;
        let is_address = host.parse::<Ipv6Addr>().is_ok();
        if text.starts_with('[') != is_address {
            return refuse("what stands in brackets is an IPv6 address");
        }
        let host = match is_address {
            true => HostName(host.to_owned()),
            false => HostName::try_from(host.to_owned())?,
        };
        Ok(Self { host, port })
    }
}

impl<const USUAL: u16> From<Server<USUAL>> for String {
    fn from(server: Server<USUAL>) -> Self {
        server.to_string()
    }
}

impl<const USUAL: u16> fmt::Display for Server<USUAL> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host().contains(':') {
            true => write!(f, "[{}]:{}", self.host(), self.port),
            false => write!(f, "{}:{}", self.host(), self.port),
        }
    }
}

/// A name of a host, or an address (RFC 1123, 2.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for HostName {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        let is_label = |label: &str| {
            let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(is_inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() > 253 || !text.split('.').all(is_label) {
            return refuse(format!("`{}` is no name of a host", text.escape_debug()));
        }
        Ok(Self(text))
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}
