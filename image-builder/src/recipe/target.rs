//! What of a recipe decides how components are built.

use super::{Board, Firmware, Recipe, TpmBus, TrustedApps};

/// What of a recipe decides how components are built. Everything else of it decides what
/// is done with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Target {
    /// The board.
    pub board: Board,
    /// Where its TPM is; the device trees follow it.
    pub tpm: TpmBus,
    /// What the VideoCore starts, and with it what comes before U-Boot.
    pub firmware: Firmware,
    /// The trusted applications that are part of OP-TEE.
    pub trusted_apps: TrustedApps,
    /// Which OP-TEE.
    pub op_tee: Purpose,
    /// Which kernel.
    pub kernel: Purpose,
    /// Whether it loads modules.
    pub modules: bool,
    /// Whether it appraises files.
    pub appraises: bool,
    /// Which U-Boot.
    pub u_boot: Purpose,
    /// Whether its root has `ima-policy`.
    pub ima_policy: bool,
}

impl Target {
    /// What a recipe chooses.
    pub fn of(recipe: &Recipe) -> Self {
        Self {
            board: recipe.board,
            tpm: recipe.bus(),
            firmware: recipe.components.firmware,
            trusted_apps: recipe.components.trusted_applications,
            op_tee: Purpose::of(recipe.components.op_tee_development),
            kernel: Purpose::of(recipe.kernel.development),
            modules: recipe.kernel.modules,
            appraises: recipe.integrity.profile().appraises(),
            u_boot: Purpose::of(recipe.u_boot.development),
            ima_policy: recipe.root.has_ima_policy(),
        }
    }

    /// Whether the kernel has a certificate: to verify what is loaded or run by it.
    #[must_use]
    pub fn has_kernel_key(&self) -> bool {
        self.modules || self.appraises
    }
}

/// Whom a component is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Purpose {
    /// Devices.
    #[default]
    Release,
    /// The lab: it shows more, and allows what a device must not.
    Development,
}

impl Purpose {
    /// The purpose of a recipe's `development = …`.
    pub fn of(development: bool) -> Self {
        if development { Self::Development } else { Self::Release }
    }
}
