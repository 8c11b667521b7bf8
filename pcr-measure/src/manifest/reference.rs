//! The short form of a manifest, small enough for a LUKS2 token.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Manifest, check_events};
use crate::digest::Sha256Digest;
use crate::pcr::{PcrIndex, PcrSelection};

/// One measurement of a [`Reference`].
///
/// In JSON `[8, "kernel", "<64 hex>"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceEvent {
    /// Where it is extended.
    pub pcr: PcrIndex,
    /// What it is.
    pub component: String,
    /// SHA-256 of what is measured.
    pub digest: Sha256Digest,
}

/// What a boot measured when the key was sealed: pcr, component and digest of
/// each event, and the PCRs of the seal.
///
/// In JSON `{"seal":[0,1,8,9,15],"events":[[0,"U-Boot version","<hex>"],...]}`;
/// about 1.2 KB for U-Boot's 13 events. Unknown fields are refused.
///
/// It lies in the open beside the encrypted root: whoever holds the disk can
/// change it. It explains a refusal; it must not decide one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reference {
    seal: PcrSelection,
    events: Vec<ReferenceEvent>,
}

impl Reference {
    pub(super) fn new(manifest: &Manifest) -> Self {
        let short = |event: &super::ManifestEvent| ReferenceEvent {
            pcr: event.pcr,
            component: event.component.clone(),
            digest: event.digest,
        };
        Self { seal: manifest.seal, events: manifest.events.iter().map(short).collect() }
    }

    /// The measurements, in order.
    #[must_use]
    pub fn events(&self) -> &[ReferenceEvent] {
        &self.events
    }

    /// The PCRs of the seal.
    #[must_use]
    pub const fn seal(&self) -> &PcrSelection {
        &self.seal
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Json {
            seal: PcrSelection,
            events: Vec<ReferenceEvent>,
        }
        let Json { seal, events } = Json::deserialize(deserializer)?;
        check_events(events.iter().map(|e| (e.pcr, e.component.as_str(), e.digest)))
            .map_err(D::Error::custom)?;
        Ok(Self { seal, events })
    }
}

impl Serialize for ReferenceEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.pcr, &self.component, self.digest).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ReferenceEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (pcr, component, digest) = Deserialize::deserialize(deserializer)?;
        Ok(Self { pcr, component, digest })
    }
}
