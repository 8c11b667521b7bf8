//! `status`: what unlocked the running root, and whether its secret can still
//! be had. It tries the policy for real; what it reads is wiped at once.

use crate::authority::{Authority, PolicyKey};
use crate::config::{Config, handle, write_handle};
use crate::guard::Guard;
use crate::luks::Volume;
use crate::report;
use crate::token::Token;
use crate::tpm::{Index, SHARED_DEVICE, Tpm, TpmError, Unsealing};
use crate::volume::LATCH;
use anyhow::Result;
use pcr_measure::digest::Sha256Digest;
use pcr_measure::pcr::{PcrBank, PcrIndex, PcrSelection};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What `status` shows: firmware, boot loader, IMA, phases, the latch.
const SHOWN: &str = "0-11,15";

/// What the running system says.
#[derive(Debug, Serialize)]
pub struct Status {
    schema: &'static str,
    /// The initramfs' report, as it wrote it.
    pub report: Option<serde_json::Value>,
    /// Where the root is mounted from.
    pub root: Root,
    /// PCRs now.
    pub pcrs: Option<PcrBank>,
    /// What the secret is bound to.
    pub binding: Option<Bound>,
    /// Whether the secret can be unsealed now: `unreachable`, `reachable`, or
    /// `unknown: ` and why.
    pub sealed: String,
}

/// What the secret is bound to.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Bound {
    /// Exactly the boots that were sealed against.
    Pcr {
        /// How many; none if the header cannot be read.
        boots: Option<usize>,
        /// The next boot that the TPM unlocks will be the only one.
        retiring: bool,
    },
    /// Every boot that the vendor signed.
    Signed {
        /// Version of the running image.
        version: u64,
        /// Handle of the rollback counter.
        #[serde(serialize_with = "write_handle")]
        counter: u32,
        /// Where it stands; older images than this open nothing. None if it is
        /// not there.
        value: Option<u64>,
    },
}

/// The running root.
#[derive(Debug, Serialize)]
pub struct Root {
    /// Its device.
    pub source: String,
    /// Its file system type.
    pub fstype: String,
}

/// The TPM objects that were sealed to, kept for the running system beside the
/// report. The values are public.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objects {
    /// The root's device.
    pub root: PathBuf,
    /// Where its encrypted data begins, in bytes.
    pub data_offset: u64,
    /// The boot partition's device.
    pub boot: PathBuf,
    /// The configuration's handle of the NV index; the token says which one of the
    /// two holds the secret.
    #[serde(deserialize_with = "handle", serialize_with = "write_handle")]
    pub nv_index: u32,
    /// Handle of the index that resealing alternates with.
    #[serde(deserialize_with = "handle", serialize_with = "write_handle")]
    pub spare_index: u32,
    /// Whether there is a PIN.
    #[serde(default)]
    pub pin: bool,
    /// Persistent handle of the SRK.
    #[serde(deserialize_with = "handle", serialize_with = "write_handle")]
    pub srk: u32,
    /// Its pinned Name.
    #[serde(with = "hex::serde")]
    pub srk_name: Vec<u8>,
    /// PCRs of the policy.
    pub pcrs: PcrSelection,
    /// Of the binding `signed`: key, counter and version of the running image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Authority>,
    /// The key that signs update bundles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_key: Option<PolicyKey>,
}

impl Objects {
    /// What `status` needs of configuration and token.
    #[must_use]
    pub fn new(config: &Config, srk_name: &[u8]) -> Self {
        Self {
            root: config.root(),
            data_offset: config.reserve(),
            boot: config.partition(config.boot_partition),
            nv_index: config.nv_index,
            spare_index: config.spare_index,
            pin: config.pin,
            srk: config.srk,
            srk_name: srk_name.to_vec(),
            pcrs: config.pcrs,
            signed: config.signed.clone(),
            update_key: config.update_key.clone(),
        }
    }

    /// The indices that may hold the secret.
    #[must_use]
    pub const fn indices(&self) -> [u32; 2] {
        [self.nv_index, self.spare_index]
    }
}

/// Asks the system.
///
/// # Errors
/// When `/proc` cannot be read. A missing report or TPM is part of the answer.
pub fn status() -> Result<Status> {
    let report = std::fs::read(report::PATH).ok();
    let report: Option<serde_json::Value> =
        report.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let objects =
        report.as_ref().and_then(|r| r.get("sealed")).and_then(|o| Objects::deserialize(o).ok());
    let token = objects.as_ref().and_then(|objects| token(&objects.root));
    let (pcrs, binding, sealed) = match Tpm::open(Path::new(SHARED_DEVICE)) {
        Ok(mut tpm) => {
            let pcrs = SHOWN.parse().ok().and_then(|all| tpm.pcrs(&all).ok());
            let binding = objects.as_ref().map(|o| bound(&mut tpm, o, token.as_ref()));
            (pcrs, binding, reach(&mut tpm, objects.as_ref(), token.as_ref()))
        }
        Err(e) => (None, None, format!("unknown: {e}")),
    };
    let root = root_of(&mounts);
    Ok(Status { schema: "msec-boot/status/1", report, root, pcrs, binding, sealed })
}

/// The token as it lies in the header now: resealing changes it while the system
/// runs.
fn token(root: &Path) -> Option<Token> {
    let mut volume = Volume::load(root).ok()?;
    Token::find(&volume.metadata().ok()?).ok().map(|(_, token)| token)
}

/// What these objects are bound to, and where the counter stands.
pub fn bound(tpm: &mut Tpm, objects: &Objects, token: Option<&Token>) -> Bound {
    let Some(authority) = &objects.signed else {
        return Bound::Pcr {
            boots: token.map(|token| token.boots().count()),
            retiring: token.is_some_and(|token| token.retire),
        };
    };
    let counter = tpm.counter(&authority.rollback()).ok();
    let value = counter.and_then(|counter| tpm.counter_value(counter).ok());
    Bound::Signed { version: authority.version, counter: authority.counter, value }
}

/// Whether the secret can be unsealed now, in the words of [`Status::sealed`].
///
/// Both indices that may hold one are tried: what an interrupted resealing left
/// counts as well.
pub fn reach(tpm: &mut Tpm, objects: Option<&Objects>, token: Option<&Token>) -> String {
    let Some(objects) = objects else { return "unknown: the report names no TPM objects".into() };
    if objects.signed.is_none() && token.is_none() {
        return "unknown: the LUKS2 header has no token".into();
    }
    let tried = objects.indices().map(|nv_index| try_index(tpm, objects, token, nv_index));
    let worst = tried.into_iter().find(|one| {
        !matches!(one, Err(TpmError::PolicyFailed | TpmError::Locked | TpmError::IndexMissing(_)))
    });
    match worst.unwrap_or(Err(TpmError::PolicyFailed)) {
        Ok(()) => "reachable".into(),
        Err(TpmError::PolicyFailed | TpmError::Locked | TpmError::IndexMissing(_)) => {
            "unreachable".into()
        }
        Err(e) => format!("unknown: {e}"),
    }
}

fn try_index(
    tpm: &mut Tpm,
    objects: &Objects,
    token: Option<&Token>,
    nv_index: u32,
) -> Result<(), TpmError> {
    let index = tpm.index(nv_index)?.ok_or(TpmError::IndexMissing(nv_index))?;
    let guard = token.filter(|_| objects.signed.is_none()).and_then(|t| t.guard(None).ok());
    let known = |guard: &Guard| guard.policy().is_ok_and(|p| index.policy() == p.as_bytes());
    // Without the whole policy at hand, or the PIN, it cannot be tried.
    let Some(guard) = guard.filter(|guard| !guard.pin() && known(guard)) else {
        return out_of_reach(tpm, &index);
    };
    let what = Unsealing {
        srk: objects.srk,
        srk_name: &objects.srk_name,
        pcrs: &objects.pcrs,
        guard: &guard,
        pin: None,
        nv_index,
        lock: false,
    };
    tpm.unseal(&index, what).map(drop)
}

/// The index is read-locked, or PCR 15 has moved: everything that is sealed here is
/// bound to its being zero, by the vendor's signature too.
fn out_of_reach(tpm: &mut Tpm, index: &Index) -> Result<(), TpmError> {
    if index.read_locked() {
        return Err(TpmError::Locked);
    }
    let latch = PcrIndex::new(LATCH.into());
    let latch = latch.and_then(|latch| Ok((latch, PcrSelection::sha256(&[LATCH.into()])?)));
    let (latch, selection) = latch.map_err(|e| TpmError::Library(e.to_string()))?;
    match tpm.pcrs(&selection)?.sha256(latch) {
        Some(Sha256Digest::ZERO) => Ok(()),
        _ => Err(TpmError::PolicyFailed),
    }
}

/// The last mount on `/`: earlier ones lie below it.
fn root_of(mounts: &str) -> Root {
    let mut root = Root { source: String::new(), fstype: String::new() };
    for line in mounts.lines() {
        let mut fields = line.split_whitespace();
        if let (Some(source), Some("/"), Some(fstype)) =
            (fields.next(), fields.next(), fields.next())
        {
            root = Root { source: source.into(), fstype: fstype.into() };
        }
    }
    root
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |name: &str| {
            let value = self.report.as_ref().and_then(|r| r.get(name));
            value.and_then(serde_json::Value::as_str).unwrap_or("unknown").to_string()
        };
        writeln!(f, "root        {} ({})", self.root.source, self.root.fstype)?;
        writeln!(f, "unlocked by {}", text("method"))?;
        if let Some(refusal) = self.report.as_ref().and_then(|r| r.get("refusal")?.as_str()) {
            writeln!(f, "refusal     {refusal}")?;
        }
        match &self.binding {
            None => {}
            Some(Bound::Pcr { boots, retiring }) => {
                let boots = match boots {
                    None => "the header cannot be read".to_string(),
                    Some(1) => "one boot alone".to_string(),
                    Some(boots) => format!("{boots} boots"),
                };
                let retiring = if *retiring { ", the next one will be the only one" } else { "" };
                writeln!(f, "binding     pcr: {boots}{retiring}")?;
            }
            Some(Bound::Signed { version, value, .. }) => {
                let value = value.map_or_else(|| "missing".to_string(), |n| format!("at {n}"));
                writeln!(f, "binding     signed: version {version}, rollback counter {value}")?;
            }
        }
        writeln!(f, "secret      {}", self.sealed)?;
        for (pcr, value) in self.pcrs.iter().flat_map(PcrBank::iter) {
            writeln!(f, "PCR {pcr:<2}      {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_root_mount_counts() {
        let mounts =
            "rootfs / rootfs rw 0 0\nproc /proc proc rw 0 0\n/dev/mapper/root / ext4 rw 0 0\n";
        let root = root_of(mounts);
        assert_eq!((root.source.as_str(), root.fstype.as_str()), ("/dev/mapper/root", "ext4"));
        assert_eq!(root_of("").source, "");
        assert_eq!(root_of("garbage\n\n/").source, "");
    }
}
