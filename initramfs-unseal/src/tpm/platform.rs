//! Closing the platform hierarchy for the rest of the boot.
//!
//! U-Boot leaves platformAuth empty, so that root in the running system could
//! switch PCR banks off, replace the TPM's seeds, keep the owner out, or begin an
//! update of its firmware. None of it gives the secret away; all of it destroys.
//! (Clearing is left to root: lockoutAuth is empty too.)
//!
//! Nothing of ours needs the hierarchy later: SRK and index belong to the owner,
//! and the index is not `POLICY_DELETE`. Its NV indices stay enabled (phEnableNV):
//! vendors keep the endorsement certificates there.

use super::{Tpm, TpmError};
use serde::{Serialize, Serializer};
use std::fmt;
use tss_esapi::interface_types::reserved_handles::Enables;
use tss_esapi::interface_types::session_handles::AuthSession;

/// What became of the platform hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platform {
    /// Nobody can use it before the TPM is reset.
    Disabled,
    /// The firmware gave it a password, which nobody knows here.
    Password,
    /// It could not be disabled.
    Open(TpmError),
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("disabled"),
            Self::Password => f.write_str("password"),
            Self::Open(why) => write!(f, "open: {why}"),
        }
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl Tpm {
    /// Disables the platform hierarchy until the TPM is reset (TPM2_HierarchyControl,
    /// TPM 2.0 Library part 3, 24.2). One command; doing it twice does no harm.
    pub fn close_platform(&mut self) -> Platform {
        let done = self.run(0, |c| {
            c.execute_with_session(Some(AuthSession::Password), |c| {
                c.hierarchy_control(Enables::Platform, false)
            })
        });
        match done {
            Ok(()) | Err(TpmError::HierarchyDisabled) => Platform::Disabled,
            // The empty password was refused; here it is the platform's.
            Err(TpmError::OwnerAuth) => Platform::Password,
            Err(why) => Platform::Open(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_says_it_in_one_string() {
        let cases = [
            (Platform::Disabled, "disabled"),
            (Platform::Password, "password"),
            (
                Platform::Open(TpmError::Other(0x909)),
                "open: TPM error 0x909: look it up with tpm2_rc_decode",
            ),
        ];
        for (state, want) in cases {
            assert_eq!(serde_json::to_value(&state).unwrap(), want);
        }
    }
}
