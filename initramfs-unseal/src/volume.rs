//! What is said about a volume key without giving it away: the fingerprint
//! that the TPM keeps beside the secret, and the measurement into PCR 15.

use crate::secret::hmac_sha256;
use pcr_measure::digest::Sha256Digest;

/// Length of a fingerprint in bytes.
pub const FINGERPRINT_LEN: usize = 32;

/// The PCR that is the latch: sealed against while it is zero, extended before
/// anybody else can run.
pub const LATCH: u8 = 15;
/// The PCR of boot phases, and the phase that ends the initramfs
/// (systemd-pcrphase(8)).
pub const PHASES: u8 = 11;
/// See [`PHASES`].
pub const LEAVE_INITRD: &str = "leave-initrd";

/// The words measured into PCR 15 before the recovery key is asked for. They
/// change the PCR, which is all that matters: nothing sealed against an
/// untouched PCR 15 can be had any more in this boot.
pub const OPENED_BY_HAND: &str = "msec-boot:opened-by-hand";

/// A one-way image of a volume key. It lies beside the secret in the TPM, so
/// that a volume which the attacker made, with a key slot that the right
/// secret opens, is still told apart from the real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; FINGERPRINT_LEN]);

impl Fingerprint {
    /// The fingerprint of `volume_key`. The key has 256 random bits, so that
    /// a plain hash over it cannot be searched.
    #[must_use]
    pub fn of(volume_key: &[u8]) -> Self {
        let label = b"msec-boot volume key fingerprint 1\0";
        Self(*Sha256Digest::of_parts(&[label, volume_key]).as_bytes())
    }
}

/// The measurement of an opened volume into PCR 15: HMAC-SHA256 under the
/// volume key over `cryptsetup:NAME:UUID`, as `systemd-cryptsetup` does it
/// with `tpm2-measure-pcr=yes` (systemd's "TPM2 PCR Measurements Made by
/// systemd", PCR 15, volume key).
#[must_use]
pub fn measurement(volume_key: &[u8], name: &str, uuid: &str) -> Sha256Digest {
    let text = format!("cryptsetup:{name}:{uuid}");
    Sha256Digest::from(hmac_sha256(volume_key, &[text.as_bytes()]))
}

/// SHA-256 over words that are measured, without a final NUL, as
/// `systemd-pcrextend` measures boot phases.
#[must_use]
pub fn words(text: &str) -> Sha256Digest {
    Sha256Digest::of(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_tells_keys_apart_and_is_not_the_plain_hash() {
        let (a, b) = ([1; 32], [2; 32]);
        assert_eq!(Fingerprint::of(&a), Fingerprint::of(&a));
        assert_ne!(Fingerprint::of(&a), Fingerprint::of(&b));
        assert_ne!(&Fingerprint::of(&a).0, Sha256Digest::of(&a).as_bytes());
    }

    #[test]
    fn the_measurement_depends_on_key_name_and_uuid() {
        let (key, other) = ([1; 32], [2; 32]);
        let base = measurement(&key, "root", "u");
        assert_ne!(base, measurement(&other, "root", "u"));
        assert_ne!(base, measurement(&key, "home", "u"));
        assert_ne!(base, measurement(&key, "root", "v"));
    }
}
