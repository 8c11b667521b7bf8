//! When the power goes.

use std::time::Duration;

/// Draws instants that can be had again: the seed stands in the test's output, and
/// `MSEC_SEED` sets it. Without it, it is the same in every run, so that a red run
/// says something about the change; the long test is where to draw others.
#[derive(Debug)]
pub struct Instants(u64);

impl Default for Instants {
    fn default() -> Self {
        Self::new()
    }
}

impl Instants {
    /// From the seed on.
    #[must_use]
    pub fn new() -> Self {
        let given = std::env::var("MSEC_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or(20);
        eprintln!("MSEC_SEED={seed}");
        Self(seed)
    }

    /// Up to `most`; a linear congruential generator (Knuth, MMIX) does.
    pub fn within(&mut self, most: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        most.mul_f64((self.0 >> 40) as f64 / (1u64 << 24) as f64)
    }
}
