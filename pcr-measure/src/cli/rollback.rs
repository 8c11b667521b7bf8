//! "As long as the counter is at most this version", as arguments name it.

use clap::Args;
use pcr_measure::policy::Rollback;

/// NV indices (TPM 2.0 Library 1.59, Part 2, 7.2: `TPM_HT_NV_INDEX`).
const NV_INDICES: std::ops::RangeInclusive<u32> = 0x0100_0000..=0x01ff_ffff;

/// Arguments of a policy with a counter.
#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// NV index of the rollback counter, as 0x01806d74
    #[arg(long, requires = "version", value_name = "HANDLE", value_parser = nv_index)]
    counter: Option<u32>,
    /// Version of the image: the policy holds as long as the counter is at most this
    #[arg(
        long,
        requires = "counter",
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    version: Option<u64>,
}

impl RollbackArgs {
    /// Both or neither: clap lets no other pair pass.
    pub(super) fn rollback(&self) -> Option<Rollback> {
        Some(Rollback { counter: self.counter?, version: self.version? })
    }
}

fn nv_index(text: &str) -> Result<u32, String> {
    text.strip_prefix("0x")
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .filter(|handle| NV_INDICES.contains(handle))
        .ok_or_else(|| "an NV index is written as 0x01806d74".to_owned())
}
