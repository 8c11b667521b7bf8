//! The demonstration's device that watches itself, as assertions.

use std::{fs, path::Path, time::Duration};

use ima_policy::reference::Reference;
use image_builder::{
    demo::{
        Watched,
        collector::Place,
        watched::{Told, recipe, watched},
    },
    progress::Progress,
};
use msec_tests::{
    built::{built, scratch, tree},
    slots,
};

/// A changed program does not run, and is told within a second; a module of the root's loads, a
/// changed copy does not; all three are told in the device's log and at the collector, and nothing else
/// is that is worse than information.
#[test]
fn what_nobody_knows_is_told_here_and_elsewhere_on_a_small_root() {
    let dir = scratch("watched");
    let collector = dir.join("collector");
    fs::create_dir_all(&collector).unwrap();
    let place = Place::new(&collector).unwrap();
    let shipped = fs::read_to_string(tree().join("image-builder/recipes/rpi3-watched.toml"));
    let completed: toml::Table = recipe(&shipped.unwrap(), &place).parse().unwrap();
    let image =
        built().image_of("rpi3-watched.toml", |recipe| *recipe = completed, Vec::new(), &dir);
    let reference = fs::read(image.path().with_extension("reference.json")).unwrap();
    let reference = Reference::from_json(&reference).unwrap();
    let device = Watched { image, reference };
    let _slot = slots::slot();
    let seen = watched(&device, &place, Path::new(&dir), &Progress::hidden()).unwrap();

    assert!(seen.refusal.contains("Permission denied"), "{}", seen.refusal);
    assert!(seen.told_after < Duration::from_secs(1), "{:?}", seen.told_after);
    let told = |Told { report, here, elsewhere }: &Told| {
        (report.event.clone(), report.severity.clone(), report.name.clone(), *here, *elsewhere)
    };
    let told: Vec<_> = seen.told.iter().map(told).collect();
    let told: Vec<_> = told
        .iter()
        .map(|(event, severity, name, here, there)| {
            let name = name.rsplit('/').next().unwrap();
            (event.as_str(), severity.as_str(), name, *here, *there)
        })
        .collect();
    let expected = [
        ("bad-signature", "error", "hostname", true, true),
        ("module", "info", "dummy.ko", true, true),
        ("module", "alert", "own.ko", true, true),
        // busybox hands over as memory what the kernel does not take as a file.
        ("module", "alert", "init_module", true, true),
    ];
    assert_eq!(told, expected);
    assert!(seen.boot.ran.leads_to_pcr);
    // The same by the list, whose PCR the TPM has signed for, from outside.
    let names: Vec<_> =
        seen.boot.ran.told.iter().filter_map(|told| told.split(':').next()).collect();
    assert_eq!(names, ["/usr/bin/hostname", "/root/own.ko", "init_module"]);
}
