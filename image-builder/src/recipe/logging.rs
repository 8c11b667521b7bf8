//! Where a device's log goes: the recipe's table `[logging]`.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use openssl::x509::X509;
use serde::{Deserialize, Serialize};

use super::values::{ValueError, refuse};

/// The port for syslog over TLS (RFC 5425, 4.1).
const PORT: u16 = 6514;

/// A collector of logs, reached by TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    /// Where it listens.
    pub server: Server,
    /// The certificate that its own has to be issued by (PEM, public), beside the recipe.
    pub ca: PathBuf,
    /// The name that its certificate has to have; that of `server` unless given.
    #[serde(default)]
    name: Option<HostName>,
    /// The certificates in `ca`. [`super::Recipe::load`] reads them.
    #[serde(skip)]
    pub ca_text: String,
}

impl Logging {
    /// The name that the collector's certificate has to have.
    #[must_use]
    pub fn peer(&self) -> &str {
        self.name.as_ref().map_or(self.server.host.as_str(), HostName::as_str)
    }
}

/// The certificates of a CA's file, and nothing else of it.
///
/// # Errors
/// That it holds none, or a private key, which is public in an image.
pub(super) fn certificates(text: &str) -> Result<String, ValueError> {
    if text.contains("PRIVATE KEY") {
        return refuse("a private key: the file of a CA's certificate is what is wanted");
    }
    let certificates = X509::stack_from_pem(text.as_bytes()).unwrap_or_default();
    if certificates.is_empty() {
        return refuse("no certificate (PEM)");
    }
    let pem = certificates.iter().map(|certificate| {
        let pem = certificate.to_pem().map_err(|error| ValueError(error.to_string()))?;
        String::from_utf8(pem).map_err(|error| ValueError(error.to_string()))
    });
    pem.collect()
}

/// Host and port: `HOST[:PORT]`, an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Server {
    host: HostName,
    port: u16,
}

impl Server {
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

impl TryFrom<String> for Server {
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
        let port = port.map_or(Ok(PORT), str::parse).ok().filter(|port| *port != 0);
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

impl From<Server> for String {
    fn from(server: Server) -> Self {
        server.to_string()
    }
}

impl fmt::Display for Server {
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
