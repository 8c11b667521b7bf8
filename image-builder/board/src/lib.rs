//! An emulated Raspberry Pi 3 with a software TPM, driven through its consoles.
