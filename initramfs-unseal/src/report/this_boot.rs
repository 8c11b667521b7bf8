//! The report of the running boot, as the running system reads it.

use super::PATH;
use crate::status::Objects;
use serde::Deserialize as _;
use serde_json::Value;

/// There is no report, or none of a root that a TPM has a part in.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no report of the boot at {PATH}: this system was not started by initramfs-unseal"
)]
pub struct NoReport;

/// What the initramfs left of this boot. Root could have written it; whatever it says,
/// the TPM has the last word.
#[derive(Debug)]
pub struct ThisBoot {
    report: Value,
    /// The TPM objects that were sealed to.
    pub objects: Objects,
}

impl ThisBoot {
    /// Reads the report.
    ///
    /// # Errors
    /// [`NoReport`].
    pub fn read() -> Result<Self, NoReport> {
        let report = std::fs::read(PATH).map_err(|_| NoReport)?;
        Self::of(serde_json::from_slice(&report).map_err(|_| NoReport)?)
    }

    /// The boot that a report is of.
    ///
    /// # Errors
    /// [`NoReport`].
    pub fn of(report: Value) -> Result<Self, NoReport> {
        let objects = report.get("sealed").and_then(|sealed| Objects::deserialize(sealed).ok());
        Ok(Self { objects: objects.ok_or(NoReport)?, report })
    }

    /// Whether the TPM unlocked it; else why not, as far as that is known.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn unlocked_by_tpm(&self) -> Result<(), &str> {
        let text = |name: &str| self.report.get(name).and_then(Value::as_str);
        match text("method") {
            Some("tpm" | "provisioned") => Ok(()),
            _ => Err(text("refusal").unwrap_or("no reason is known")),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// The report of a boot that went this way.
    pub(crate) fn report(method: &str, signed: Option<Value>) -> Value {
        let mut sealed = json!({
            "root": "/dev/mmcblk0p2", "data_offset": 16_777_216, "boot": "/dev/mmcblk0p1",
            "nv_index": "0x01806d73", "spare_index": "0x01806d75",
            "srk": "0x81000001", "srk_name": "000b", "pcrs": [0, 15],
        });
        if let Some(signed) = signed {
            sealed["signed"] = signed;
        }
        json!({ "method": method, "sealed": sealed, "refusal": "the boot differs" })
    }

    #[test]
    fn a_boot_that_was_opened_by_hand_is_told_with_its_reason() {
        for (method, want) in [
            ("tpm", Ok(())),
            ("provisioned", Ok(())),
            ("recovery", Err("the boot differs")),
            ("", Err("the boot differs")),
        ] {
            assert_eq!(ThisBoot::of(report(method, None)).unwrap().unlocked_by_tpm(), want);
        }
        for broken in [json!({}), json!({"method": "tpm", "sealed": null}), json!(1)] {
            ThisBoot::of(broken).unwrap_err();
        }
    }
}
