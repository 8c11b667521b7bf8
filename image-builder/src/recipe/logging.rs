//! Where a device's log goes: the recipe's table `[logging]`.

use std::path::PathBuf;

use openssl::x509::X509;
use serde::{Deserialize, Serialize};

use super::server::{HostName, Server};
use super::values::{ValueError, refuse};

/// The port for syslog over TLS (RFC 5425, 4.1).
const PORT: u16 = 6514;

/// A collector of logs, reached by TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Logging {
    /// Where it listens.
    pub server: Server<PORT>,
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
        self.name.as_ref().map_or(self.server.host(), HostName::as_str)
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
