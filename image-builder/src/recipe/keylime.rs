//! Whom a device reports to: the recipe's table `[keylime]`.

use std::net::IpAddr;
use std::path::PathBuf;

use ima_policy::quarantine::Allowed;
use serde::{Deserialize, Serialize};

use super::server::Server;
use super::values::{ValueError, refuse};

/// Keylime's ports for devices (`port` of verifier.conf and registrar.conf).
const VERIFIER_PORT: u16 = 8881;
const REGISTRAR_PORT: u16 = 8890;

/// A verifier and a registrar of Keylime's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keylime {
    /// Where the verifier listens, by the name that its certificate has.
    pub verifier: Server<VERIFIER_PORT>,
    /// Where the registrar listens.
    pub registrar: Server<REGISTRAR_PORT>,
    /// The certificate that the verifier's has to be issued by (PEM, public), beside the recipe.
    pub ca: PathBuf,
    /// Who may still reach the device, and be reached, once the verifier has refused it. None:
    /// the device keeps its network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<Allowed>,
    /// The certificates in `ca`. [`super::Recipe::load`] reads them.
    #[serde(skip)]
    pub ca_text: String,
}

impl Keylime {
    /// Refuses a quarantine that a device could never report from, as far as that can be seen:
    /// a verifier may be given by name.
    pub(super) fn check(&self) -> Result<(), ValueError> {
        let Ok(verifier) = self.verifier.host().parse::<IpAddr>() else { return Ok(()) };
        if self.quarantine.is_empty() || self.quarantine.iter().any(|own| own.covers(verifier)) {
            return Ok(());
        }
        refuse(format!("[keylime]: quarantine has to name {verifier}: the device reports to it"))
    }
}
