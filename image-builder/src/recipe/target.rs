//! What of a recipe decides how components are built.

use super::{Board, Recipe, SecureWorld, TpmBus};

/// What of a recipe decides how components are built. Everything else of it decides what
/// is done with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Target {
    /// The board.
    pub board: Board,
    /// Where its TPM is; the device trees follow it.
    pub tpm: TpmBus,
    /// What runs in the secure world.
    pub secure_world: SecureWorld,
    /// Which kernel.
    pub kernel: Purpose,
    /// Which U-Boot.
    pub u_boot: Purpose,
}

impl Target {
    /// What a recipe chooses.
    pub fn of(recipe: &Recipe) -> Self {
        Self {
            board: recipe.board,
            tpm: recipe.tpm.bus,
            secure_world: recipe.components.secure_world,
            kernel: Purpose::of(recipe.kernel.development),
            u_boot: Purpose::of(recipe.u_boot.development),
        }
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
