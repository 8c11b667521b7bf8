use super::*;

static NO_FIRMWARE: std::sync::LazyLock<Firmware> = std::sync::LazyLock::new(Firmware::default);

fn uboot() -> Uboot<'static> {
    Uboot {
        version: b"U-Boot 2025.01-3.2 (Jan 01 2025 - 00:00:00 +0000)\0",
        firmware: &NO_FIRMWARE,
        kernel: Measurement::of(b"kernel"),
        kernel_note: "6.12.117",
        initramfs: Measurement::of(b"initramfs"),
        device_tree: Measurement::of(b"device tree"),
        command_line: "console=ttyAMA0,115200 panic=10",
    }
}

fn manifest() -> Manifest {
    let builder = Manifest::builder("rpi3", "rpi3").uboot(&uboot());
    builder.seal(&[0, 1, 8, 9, 15]).build().unwrap()
}

fn pcr(index: u32) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

/// The JSON of `manifest()` with one thing changed.
fn changed(change: impl FnOnce(&mut serde_json::Value)) -> Result<Manifest, ManifestError> {
    let mut json = serde_json::from_str(&manifest().to_json().unwrap()).unwrap();
    change(&mut json);
    Manifest::from_json(json.to_string().as_bytes())
}

#[test]
fn what_is_written_is_read_again_and_written_the_same() {
    let text = manifest().to_json().unwrap();
    let read = Manifest::from_json(text.as_bytes()).unwrap();
    assert_eq!(read, manifest());
    assert_eq!(read.to_json().unwrap(), text);
    assert_eq!(read.events().len(), 13);
}

#[test]
fn pcr_0_is_the_replay_of_version_and_separator() {
    let version = Sha256Digest::of(b"U-Boot 2025.01-3.2 (Jan 01 2025 - 00:00:00 +0000)\0");
    let separator = Sha256Digest::of(&[0xff; 4]);
    let want = Sha256Digest::ZERO.extended_by(&version).extended_by(&separator);
    let predicted = manifest().predict();
    assert_eq!(predicted.sha256(pcr(0)), Some(want));
    let touched: Vec<u8> = predicted.iter().map(|(pcr, _)| pcr.get()).collect();
    assert_eq!(touched, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn firmware_comes_between_version_and_separator() {
    let fip = crate::fip::tests::package(&[([1; 16], b"one"), ([2; 16], b"two")]);
    let stub = [b"bl1!".as_slice(), &fip].concat();
    let firmware = Firmware::of_armstub(&stub, 4).unwrap();
    let builder =
        Manifest::builder("rpi3", "rpi3").uboot(&Uboot { firmware: &firmware, ..uboot() });
    let manifest = builder.seal(&[0]).build().unwrap();
    let of_pcr_0 = manifest.events().iter().filter(|event| event.pcr == pcr(0));
    let seen: Vec<_> = of_pcr_0.map(|event| (event.digest, event.size)).skip(1).collect();
    let measured = [&b"bl1!"[..], &fip[..16 + 3 * 40], b"one", b"two", &[0xff; 4]];
    let want: Vec<_> =
        measured.iter().map(|bytes| (Sha256Digest::of(bytes), bytes.len() as u64)).collect();
    assert_eq!(seen, want);
    for bad in [&stub[..3], &stub[..30], b""] {
        Firmware::of_armstub(bad, 4).unwrap_err();
    }
}

#[test]
fn an_image_expects_its_own_firmware_alone() {
    type Images<'a> = &'a [([u8; 16], &'a [u8])];
    let firmware = |bl1: &[u8], images: Images<'_>| {
        let stub = [bl1, &crate::fip::tests::package(images)].concat();
        Firmware::of_armstub(&stub, 4).unwrap()
    };
    let images: Images<'_> = &[([1; 16], b"one"), ([2; 16], b"two")];
    let own = firmware(b"bl1!", images);
    let builder = Manifest::builder("rpi3", "rpi3").uboot(&Uboot { firmware: &own, ..uboot() });
    let manifest = builder.seal(&[0]).build().unwrap();
    assert!(manifest.expects(&own));
    for other in [
        firmware(b"bl1?", images),
        firmware(b"bl1!", &images[..1]),
        firmware(b"bl1!", &[images[1], images[0]]),
        firmware(b"bl1!", &[images[0], images[1], ([3; 16], b"")]),
        firmware(b"bl1!", &[images[0], ([2; 16], b"too")]),
        Firmware::default(),
    ] {
        assert!(!manifest.expects(&other), "{other:?}");
    }
}

#[test]
fn firmware_that_tf_a_records_comes_first() {
    let fip = crate::fip::tests::package(&[([1; 16], b"one"), ([2; 16], b"two")]);
    let firmware = Firmware::recorded_by_tf_a(&fip).unwrap();
    let builder =
        Manifest::builder("virt", "virt").uboot(&Uboot { firmware: &firmware, ..uboot() });
    let manifest = builder.seal(&[0]).build().unwrap();
    let of_pcr_0 = manifest.events().iter().filter(|event| event.pcr == pcr(0));
    let seen: Vec<_> = of_pcr_0.map(|event| event.digest).collect();
    let want = [b"one", b"two", uboot().version, &[0xff; 4][..]].map(Sha256Digest::of);
    assert_eq!(seen, want);
    Firmware::recorded_by_tf_a(&fip[1..]).unwrap_err();
}

#[test]
fn a_sealed_pcr_that_nothing_touches_is_expected_zero() {
    let sealed = manifest().sealed_values();
    assert_eq!(sealed.iter().count(), 5);
    assert_eq!(sealed.sha256(pcr(15)), Some(Sha256Digest::ZERO));
    assert_eq!(sealed.sha256(pcr(8)), manifest().predict().sha256(pcr(8)));
}

#[test]
fn the_unchanged_json_is_taken() {
    assert_eq!(changed(|_| ()).unwrap(), manifest());
}

#[test]
fn a_changed_manifest_is_refused() {
    use serde_json::{Value, json};
    type Change = fn(&mut Value);
    let zero = Sha256Digest::ZERO.to_string();
    let cases: [(&str, Change); 20] = [
        ("unknown field", |m| m["comment"] = json!("x")),
        ("unknown event field", |m| m["events"][0]["type"] = json!(8)),
        ("no schema", |m| drop(m.as_object_mut().unwrap().remove("schema"))),
        ("other schema", |m| m["schema"] = json!("msec-boot/boot-manifest/2")),
        ("other bank", |m| m["bank"] = json!("sha1")),
        ("PCR 24", |m| m["events"][0]["pcr"] = json!(24)),
        ("PCR 24 in pcrs", |m| m["pcrs"]["24"] = m["pcrs"]["0"].clone()),
        ("padded key", |m| m["pcrs"]["01"] = m["pcrs"]["1"].clone()),
        ("a value too many", |m| m["pcrs"]["15"] = json!("00".repeat(32))),
        ("a value too few", |m| drop(m["pcrs"].as_object_mut().unwrap().remove("9"))),
        ("a wrong value", |m| m["pcrs"]["8"] = m["pcrs"]["9"].clone()),
        ("a changed digest", |m| m["events"][1]["digest"] = json!("00".repeat(32))),
        ("a short digest", |m| m["events"][1]["digest"] = json!("00")),
        ("a changed order", |m| m["events"].as_array_mut().unwrap().swap(3, 4)),
        ("empty seal", |m| m["seal"] = json!([])),
        ("a PCR sealed twice", |m| m["seal"] = json!([0, 0])),
        ("no events", |m| {
            m["events"] = json!([]);
            m["pcrs"] = json!({});
        }),
        ("empty component", |m| m["events"][0]["component"] = json!("")),
        ("escape in component", |m| m["events"][0]["component"] = json!("\u{1b}[2J")),
        ("negative size", |m| m["events"][0]["size"] = json!(-1)),
    ];
    assert_eq!(zero.len(), 64);
    for (name, change) in cases {
        assert!(changed(change).is_err(), "{name}");
    }
}

#[test]
fn doubled_keys_are_refused() {
    let text = manifest().to_json().unwrap();
    let value = manifest().predict().sha256(pcr(0)).unwrap();
    let entry = format!("\"0\": \"{value}\",");
    assert!(text.contains(&entry));
    let doubled = text.replace(&entry, &format!("{entry}{entry}"));
    assert!(matches!(Manifest::from_json(doubled.as_bytes()), Err(ManifestError::Json(_))));
    let doubled = text.replace("\"bank\"", "\"bank\": \"sha256\", \"bank\"");
    assert!(matches!(Manifest::from_json(doubled.as_bytes()), Err(ManifestError::Json(_))));
}

#[test]
fn sizes_are_bounded() {
    let long = vec![b' '; MAX_JSON + 1];
    assert!(matches!(Manifest::from_json(&long), Err(ManifestError::TooLong(_))));
    let mut builder = Manifest::builder("i", "b").seal(&[0]);
    for i in 0..=MAX_EVENTS {
        builder = builder.event(0, format!("component {i}"), b"".as_slice(), "");
    }
    assert!(matches!(builder.build(), Err(ManifestError::TooManyEvents(_))));
}

#[test]
fn the_builder_refuses_what_the_parser_would() {
    let start = || Manifest::builder("i", "b").seal(&[0]);
    let measured = |m: &'static str| Measurement::of(m.as_bytes());
    let twice = start().event(1, "a", measured("x"), "").event(1, "a", measured("x"), "");
    assert!(matches!(twice.build(), Err(ManifestError::Twice { .. })));
    let ambiguous = start().event(1, "a", measured("x"), "").event(2, "a", measured("y"), "");
    assert!(matches!(ambiguous.build(), Err(ManifestError::Ambiguous { .. })));
    let beyond = start().event(24, "a", measured("x"), "");
    assert!(matches!(beyond.build(), Err(ManifestError::Pcr(PcrError::NoSuchPcr(24)))));
    let named = start().event(0, "a\nb", measured("x"), "");
    assert!(matches!(named.build(), Err(ManifestError::Text { what: "component", .. })));
    assert!(matches!(start().build(), Err(ManifestError::NoEvents)));
    let unsealed = start().seal(&[]).event(0, "a", measured("x"), "");
    assert!(matches!(unsealed.build(), Err(ManifestError::Pcr(PcrError::Empty))));
}

#[test]
fn a_reference_fits_a_token_and_comes_back() {
    let reference = manifest().reference();
    let json = serde_json::to_string(&reference).unwrap();
    assert!(json.len() < 1500, "{} bytes", json.len());
    assert_eq!(serde_json::from_str::<Reference>(&json).unwrap(), reference);
    assert_eq!(reference.predict(), manifest().predict());
    assert_eq!(reference.sealed_values(), manifest().sealed_values());
    for bad in [
        json.replace("\"seal\"", "\"x\":1,\"seal\""),
        json.replace("\"kernel\"", "\"\\u001b[2J\""),
        json.replace("[8,", "[24,"),
        json.replace("[8,\"kernel\",", "[8,\"kernel\",1,"),
        json.replace("\"initramfs\"", "\"kernel\""),
    ] {
        assert_ne!(bad, json);
        assert!(serde_json::from_str::<Reference>(&bad).is_err(), "{bad}");
    }
}

#[test]
fn a_replaced_artifact_changes_its_pcr_and_nothing_else() {
    let old = manifest();
    let new = old.replace("kernel", Measurement::of(b"other kernel")).unwrap();
    let from_scratch =
        Uboot { kernel: Measurement::of(b"other kernel"), kernel_note: "", ..uboot() };
    let builder = Manifest::builder("rpi3", "rpi3").uboot(&from_scratch);
    assert_eq!(new, builder.seal(&[0, 1, 8, 9, 15]).build().unwrap());
    for index in 0..10 {
        let same = old.predict().sha256(pcr(index)) == new.predict().sha256(pcr(index));
        assert_eq!(same, index != 8, "{index}");
    }
    // In every PCR that it is measured into.
    let new = old.replace("separator", Measurement::of(&[0; 4])).unwrap();
    assert!((0..8).all(|i| old.predict().sha256(pcr(i)) != new.predict().sha256(pcr(i))));
    assert_eq!(old.replace("kernel", Measurement::of(b"kernel")).unwrap().predict(), old.predict());
}

#[test]
fn text_is_measured_with_its_nul() {
    let line = "console=ttyS1";
    let new = manifest().replace_text("command line", line).unwrap();
    let from_scratch = Uboot { command_line: line, ..uboot() };
    let builder = Manifest::builder("rpi3", "rpi3").uboot(&from_scratch);
    assert_eq!(new, builder.seal(&[0, 1, 8, 9, 15]).build().unwrap());
    // What a note cannot hold is measured all the same.
    for text in ["", "a\nb", &"x".repeat(MAX_NOTE + 1)] {
        let new = manifest().replace_text("U-Boot version", text).unwrap();
        assert_eq!(new.events()[0].digest, Measurement::of_c_string(text).digest);
        assert_eq!(Manifest::from_json(new.to_json().unwrap().as_bytes()).unwrap(), new);
    }
}

#[test]
fn what_cannot_be_replaced_is_named() {
    let measured = Measurement::of(b"x");
    let error = manifest().replace("Kernel\n", measured).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the manifest has no component \"Kernel?\"; it has U-Boot version, kernel, initramfs, \
         device tree, command line, separator"
    );
    assert!(matches!(
        manifest().replace("command line", measured),
        Err(ReplaceError::IsText { component }) if component == "command line"
    ));
    assert!(matches!(
        manifest().replace_text("kernel", "x"),
        Err(ReplaceError::IsNoText { component }) if component == "kernel"
    ));
    assert!(matches!(manifest().replace_text("x", "x"), Err(ReplaceError::NoSuchComponent { .. })));
    // A text by what its note proves, whatever it is called.
    let builder =
        Manifest::builder("i", "b").event(12, "banner", Measurement::of_c_string("v1"), "v1");
    assert!(builder.seal(&[12]).build().unwrap().replace_text("banner", "v2").is_ok());
}
