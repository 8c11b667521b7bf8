//! Any bytes as a configuration: no panic, and whatever is taken keeps the boot
//! as tight as the documentation promises.

#![no_main]

use initramfs_unseal::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = Config::parse(bytes) else { return };
    let pcrs: Vec<u8> = config.pcrs.iter().map(|pcr| pcr.get()).collect();
    assert!(pcrs.contains(&15), "the latch is not sealed to");
    assert!(pcrs.iter().any(|pcr| *pcr < 8), "nothing of the firmware is sealed to");
    assert!(pcrs.len() <= 8 && !pcrs.iter().any(|pcr| [10, 11, 16, 23].contains(pcr)));
    assert!((0x0180_0000..=0x01bf_ffff).contains(&config.nv_index));
    assert!((0x8100_0000..=0x817f_ffff).contains(&config.srk));
    assert!((1..=100).contains(&config.recovery_tries));
    assert!((1..=600).contains(&config.wait_seconds));
    assert!((1..=86_400).contains(&config.prompt_seconds));
    assert!((4 << 20..=1 << 30).contains(&config.reserve()));
    // One path component below /dev/mapper, and partitions of one disk.
    assert!(!config.mapper.is_empty() && !config.mapper.contains(['/', '.', '\0']));
    let boot = config.partition(config.boot_partition);
    for path in [&config.disk, &config.root(), &boot] {
        assert!(path.starts_with("/dev"));
        let inside = path.components().all(|part| part != std::path::Component::ParentDir);
        assert!(inside, "{}", path.display());
    }
    assert_ne!(config.root(), boot);
});
