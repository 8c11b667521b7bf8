//! Builds, runs and checks measured-boot SD card images.
