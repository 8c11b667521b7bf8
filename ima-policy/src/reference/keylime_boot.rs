//! Keylime's measured boot policy: what boots are known, of boot manifests.
//!
//! It is judged by `keylime/msec_measured_boot.py` in Keylime's verifier, which has none of its
//! own for firmware that is no UEFI.

use pcr_measure::PcrIndex;
use pcr_measure::manifest::{Manifest, ManifestEvent};
use serde::Serialize;

/// The one schema, which the verifier's side knows as well.
pub const SCHEMA: &str = "msec-boot/keylime-boot/1";

/// The last PCR that is looked at.
const LAST_PCR: u8 = 9;

/// Manifests that no policy can have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootPolicyError {
    /// There are none: Keylime takes an empty policy for one that allows everything.
    #[error("no boot manifest: Keylime takes a policy without boots for one that allows all")]
    None,
    /// Something that the verifier does not hold against the log.
    #[error(
        "{image} measures {component:?} into PCR {pcr}: the policy looks at PCR 0 to {LAST_PCR}"
    )]
    Pcr {
        /// The manifest's image.
        image: String,
        /// What is measured.
        component: String,
        /// Where.
        pcr: PcrIndex,
    },
}

#[derive(Serialize)]
struct Json<'a> {
    schema: &'static str,
    boots: Vec<Boot<'a>>,
}

#[derive(Serialize, PartialEq)]
struct Boot<'a> {
    image: &'a str,
    board: &'a str,
    events: Vec<Event<'a>>,
}

#[derive(Serialize, PartialEq)]
struct Event<'a> {
    pcr: PcrIndex,
    component: &'a str,
    digest: String,
}

/// The policy as JSON, on one line with its end, and how many boots it has: the device has to
/// have booted as one of these manifests says, whole. One that is given twice stands there once.
///
/// # Errors
/// [`BootPolicyError`].
pub fn policy(manifests: &[Manifest]) -> Result<(String, usize), BootPolicyError> {
    let mut boots = Vec::new();
    for manifest in manifests {
        let event = |event| of_event(manifest, event);
        let events = manifest.events().iter().map(event).collect::<Result<_, _>>()?;
        let boot = Boot { image: manifest.image(), board: manifest.board(), events };
        if !boots.contains(&boot) {
            boots.push(boot);
        }
    }
    if boots.is_empty() {
        return Err(BootPolicyError::None);
    }
    let count = boots.len();
    let json = serde_json::json!(Json { schema: SCHEMA, boots });
    Ok((format!("{json}\n"), count))
}

fn of_event<'a>(
    manifest: &Manifest,
    event: &'a ManifestEvent,
) -> Result<Event<'a>, BootPolicyError> {
    let ManifestEvent { pcr, component, digest, .. } = event;
    if pcr.get() > LAST_PCR {
        return Err(BootPolicyError::Pcr {
            image: manifest.image().to_owned(),
            component: component.clone(),
            pcr: *pcr,
        });
    }
    Ok(Event { pcr: *pcr, component, digest: digest.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(image: &str, pcr: u32) -> Manifest {
        let builder = Manifest::builder(image, "rpi3").event(pcr, "kernel", &b"kernel"[..], "6.12");
        builder.event(0, "U-Boot", &b"u-boot"[..], "").seal(&[pcr]).build().unwrap()
    }

    #[test]
    fn a_policy_has_each_boot_once_and_in_order() {
        let (one, two) = (manifest("one", 8), manifest("two", 9));
        let (text, count) = policy(&[one.clone(), two, one]).unwrap();
        let event = |pcr, component, digest| serde_json::json!({ "pcr": pcr, "component": component, "digest": digest });
        // SHA-256 of `kernel` and `u-boot`, by sha256sum.
        let kernel = "6923dd1bc0460082c5d55a831908c24a282860b7f1cd6c2b79cf1bc8857c639c";
        let uboot = "fdd9d7dafdf5d9f56032ef62548ba1d9b6752d0eca84e21556790a28be916329";
        let boot = |image, pcr| {
            let events = [event(pcr, "kernel", kernel), event(0, "U-Boot", uboot)];
            serde_json::json!({ "image": image, "board": "rpi3", "events": events })
        };
        let expected = serde_json::json!({
            "schema": "msec-boot/keylime-boot/1",
            "boots": [boot("one", 8), boot("two", 9)],
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), expected);
        assert_eq!((count, text.matches('\n').count(), text.ends_with('\n')), (2, 1, true));
    }

    #[test]
    fn what_the_verifier_would_not_look_at_is_refused() {
        assert!(matches!(policy(&[]), Err(BootPolicyError::None)));
        let error = policy(&[manifest("one", 9), manifest("two", 10)]).unwrap_err();
        let told = "two measures \"kernel\" into PCR 10: the policy looks at PCR 0 to 9";
        assert_eq!(error.to_string(), told);
    }
}
