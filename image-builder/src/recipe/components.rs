//! Which optional components take part: the recipe's table `[components]`.

use serde::{Deserialize, Serialize};

use super::{TrustedApps, ValueError};

/// Which optional components take part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Table", into = "Table")]
pub struct Components {
    /// What the VideoCore starts.
    pub firmware: Firmware,
    /// The trusted applications that are part of OP-TEE; none where there is no OP-TEE.
    pub trusted_applications: TrustedApps,
    /// An OP-TEE for the lab: the running system may have it load trusted applications
    /// that are signed with the key that OP-TEE's sources carry, thus by anybody.
    pub op_tee_development: bool,
}

/// What the VideoCore starts, and with it what comes before U-Boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// TF-A: BL1, BL2, BL31, a secure world if there is one, and U-Boot as BL33.
    TfA(SecureWorld),
    /// U-Boot alone.
    UBoot,
}

impl Default for Firmware {
    fn default() -> Self {
        Self::TfA(SecureWorld::OpTee)
    }
}

/// The secure world's operating system (BL32).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecureWorld {
    /// OP-TEE.
    OpTee,
    /// Nothing but TF-A's runtime (BL31).
    None,
}

/// `firmware` as the recipe spells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FirmwareName {
    #[default]
    TfA,
    UBoot,
}

/// The table as it is written: the secure world that goes without saying depends on the
/// firmware.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Table {
    firmware: FirmwareName,
    #[serde(skip_serializing_if = "Option::is_none")]
    secure_world: Option<SecureWorld>,
    trusted_applications: TrustedApps,
    op_tee_development: bool,
}

impl From<Components> for Table {
    fn from(components: Components) -> Self {
        let (firmware, secure_world) = match components.firmware {
            Firmware::TfA(world) => (FirmwareName::TfA, Some(world)),
            Firmware::UBoot => (FirmwareName::UBoot, None),
        };
        Self {
            firmware,
            secure_world,
            trusted_applications: components.trusted_applications,
            op_tee_development: components.op_tee_development,
        }
    }
}

impl TryFrom<Table> for Components {
    type Error = ValueError;

    fn try_from(table: Table) -> Result<Self, ValueError> {
        let firmware = match (table.firmware, table.secure_world) {
            (FirmwareName::TfA, world) => Firmware::TfA(world.unwrap_or(SecureWorld::OpTee)),
            (FirmwareName::UBoot, None | Some(SecureWorld::None)) => Firmware::UBoot,
            (FirmwareName::UBoot, Some(SecureWorld::OpTee)) => {
                return Err(ValueError(
                    "secure_world = \"op-tee\" needs firmware = \"tf-a\", which starts it: U-Boot \
                     alone goes with secure_world = \"none\""
                        .to_owned(),
                ));
            }
        };
        let Table { trusted_applications, op_tee_development, .. } = table;
        let no_op_tee = firmware != Firmware::TfA(SecureWorld::OpTee);
        if no_op_tee && (!trusted_applications.is_empty() || op_tee_development) {
            return Err(ValueError(
                "trusted_applications and op_tee_development are about OP-TEE, and there is none: \
                 they need secure_world = \"op-tee\""
                    .to_owned(),
            ));
        }
        Ok(Self { firmware, trusted_applications, op_tee_development })
    }
}
