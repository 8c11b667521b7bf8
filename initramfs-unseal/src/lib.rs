//! Unlocks a TPM-sealed LUKS2 root from the initramfs.
