use super::*;
use crate::list::DEFAULT;
use crate::list::FileDigest;
use crate::list::growing::Growing;
use crate::reference::Reference;
use crate::signature::{Keyring, Kind as SignatureKind, SigningKey, Version};

fn ten() -> PcrIndex {
    PcrIndex::new(10).unwrap()
}

fn sha256(content: &[u8]) -> Digest {
    Algorithm::Sha256.hash(&[content]).unwrap()
}

fn ng(content: &[u8]) -> Vec<u8> {
    [&b"sha256:\0"[..], sha256(content).as_bytes()].concat()
}

/// A record of these fields, whose digest is right unless it is given.
fn record(template: &str, fields: &[Vec<u8>], digest: Option<[u8; 20]>) -> Record {
    let number = |size: usize| u32::try_from(size).unwrap().to_le_bytes();
    let mut data = Vec::new();
    for field in fields {
        data.extend(number(field.len()));
        data.extend(field);
    }
    let own = DEFAULT.hash(&[&data]).unwrap();
    let digest = digest.map_or(own.as_bytes().to_vec(), Vec::from);
    let head = [&10_u32.to_le_bytes()[..], &digest, &number(template.len()), template.as_bytes()];
    let mut growing = Growing::new(DEFAULT);
    growing.push(&[&head.concat(), &number(data.len())[..], &data].concat());
    growing.record().unwrap().unwrap()
}

fn named(name: &[u8]) -> Vec<u8> {
    [name, b"\0"].concat()
}

fn file(name: &[u8], content: &[u8], signature: &[u8]) -> Record {
    record("ima-sig", &[ng(content), named(name), signature.to_vec()], None)
}

fn buffer(name: &str, of: &[u8], buffer: &[u8]) -> Record {
    record("ima-buf", &[ng(of), named(name.as_bytes()), buffer.to_vec()], None)
}

/// A key, the keyring that has it, and a certificate.
fn key() -> (SigningKey, Keyring, Vec<u8>) {
    use openssl::{
        asn1::Asn1Time, ec::EcGroup, ec::EcKey, hash::MessageDigest, nid::Nid, pkey::PKey,
    };
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut keyring = Keyring::new();
    keyring.add("key", &key.public_key_to_pem().unwrap()).unwrap();
    let mut certificate = openssl::x509::X509::builder().unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    certificate.sign(&key, MessageDigest::sha256()).unwrap();
    let der = certificate.build().to_der().unwrap();
    let pem = key.private_key_to_pem_pkcs8().unwrap();
    (SigningKey::from_pem("key", &pem).unwrap(), keyring, der)
}

fn reference(of: &[(&str, &[u8])]) -> Reference {
    let mut reference = Reference::new();
    for (name, content) in of {
        let digest = sha256(content).as_bytes().to_vec();
        let digest = FileDigest::new(None, "sha256", digest).unwrap();
        match name.strip_prefix('@') {
            Some(name) => reference.add_key(name.as_bytes(), digest),
            None => reference.add_file(name.as_bytes(), digest),
        }
    }
    reference
}

fn told(judge: Judge<'_>, record: &Record) -> Vec<(Event, Severity)> {
    let mut watch = Watch::new(judge, ten());
    // Only the first one may be the boot's.
    watch.record(&file(b"/first", b"", b"")).unwrap();
    let reports = watch.record(record).unwrap();
    for report in &reports {
        assert_eq!(report.entry, Some(2));
        assert_eq!(report.name.as_deref(), record.name());
    }
    reports.iter().map(|report| (report.event, report.severity)).collect()
}

#[test]
fn each_kind_of_record_is_told_as_what_it_is() {
    use Event as E;
    use Severity as S;
    let (key, keyring, der) = key();
    let sign =
        |content: &[u8]| key.sign(SignatureKind::File, Version::V2, &sha256(content)).unwrap();
    let reference = reference(&[
        ("/bin/a", b"a"),
        ("/usr/lib/modules/6/a.ko", b"a"),
        ("/usr/lib/firmware/a", b"a"),
        ("/etc/ima/policy", b"a"),
        ("@.ima", &der),
    ]);
    let zeros = [&b"sha256:\0"[..], &[0; 32]].concat();
    let violation =
        |name: &[u8]| record("ima-sig", &[zeros.clone(), named(name), vec![]], Some([0; 20]));
    let modsig = |signature: &[u8]| {
        let fields = [ng(b"m"), named(b"/x"), vec![], ng(b"m"), signature.to_vec()];
        record("ima-modsig", &fields, None)
    };
    let broken = record("ima-ng", &[ng(b"a"), named(b"/bin/a")], Some([1; 20]));
    // By nothing, by the reference, by the keyring, by both.
    type Told<'a> = &'a [(Event, Severity)];
    let cases: &[(&str, Record, [Told<'_>; 4])] = &[
        ("known, signed", file(b"/bin/a", b"a", &sign(b"a")), [&[], &[], &[], &[]]),
        (
            "known, not signed",
            file(b"/bin/a", b"a", b""),
            [&[], &[], &[(E::Unknown, S::Warning)], &[(E::Unsigned, S::Notice)]],
        ),
        (
            "known, by a template without signatures",
            record("ima-ng", &[ng(b"a"), named(b"/bin/a")], None),
            [&[], &[], &[(E::Unknown, S::Warning)], &[]],
        ),
        (
            "changed",
            file(b"/bin/a", b"b", &sign(b"b")),
            [&[], &[(E::Changed, S::Error)], &[], &[(E::Changed, S::Error)]],
        ),
        (
            "unknown, signed",
            file(b"/bin/b", b"b", &sign(b"b")),
            [&[], &[(E::Unknown, S::Warning)], &[], &[]],
        ),
        (
            "unknown",
            file(b"/bin/b", b"b", b""),
            [
                &[],
                &[(E::Unknown, S::Warning)],
                &[(E::Unknown, S::Warning)],
                &[(E::Unknown, S::Warning)],
            ],
        ),
        (
            "signature of something else",
            file(b"/bin/a", b"a", &sign(b"b")),
            [&[], &[], &[(E::BadSignature, S::Error)], &[(E::BadSignature, S::Error)]],
        ),
        (
            "known module",
            file(b"/usr/lib/modules/6/a.ko", b"a", &sign(b"a")),
            [
                &[(E::Module, S::Notice)],
                &[(E::Module, S::Info)],
                &[(E::Module, S::Info)],
                &[(E::Module, S::Info)],
            ],
        ),
        (
            "unknown module",
            file(b"/tmp/evil.ko.xz", b"evil", b""),
            [
                &[(E::Module, S::Notice)],
                &[(E::Module, S::Alert)],
                &[(E::Module, S::Alert)],
                &[(E::Module, S::Alert)],
            ],
        ),
        (
            "changed module",
            file(b"/usr/lib/modules/6/a.ko", b"evil", &sign(b"evil")),
            [
                &[(E::Module, S::Notice)],
                &[(E::Module, S::Alert)],
                &[(E::Module, S::Info)],
                &[(E::Module, S::Alert)],
            ],
        ),
        (
            "a module by its appended signature",
            modsig(b"\x30"),
            [
                &[(E::Module, S::Notice)],
                &[(E::Module, S::Alert)],
                &[(E::Module, S::Alert)],
                &[(E::Module, S::Alert)],
            ],
        ),
        (
            "none by that template",
            modsig(b""),
            [
                &[],
                &[(E::Unknown, S::Warning)],
                &[(E::Unknown, S::Warning)],
                &[(E::Unknown, S::Warning)],
            ],
        ),
        (
            "known firmware",
            file(b"/usr/lib/firmware/a", b"a", &sign(b"a")),
            [
                &[(E::Firmware, S::Notice)],
                &[(E::Firmware, S::Info)],
                &[(E::Firmware, S::Info)],
                &[(E::Firmware, S::Info)],
            ],
        ),
        (
            "another policy",
            file(b"/etc/ima/policy", b"dont_measure", b""),
            [
                &[(E::Policy, S::Notice)],
                &[(E::Policy, S::Alert)],
                &[(E::Policy, S::Alert)],
                &[(E::Policy, S::Alert)],
            ],
        ),
        (
            "known key",
            buffer(".ima", &der, &der),
            [
                &[(E::Key, S::Notice)],
                &[(E::Key, S::Info)],
                &[(E::Key, S::Notice)],
                &[(E::Key, S::Info)],
            ],
        ),
        (
            "another key, in a keyring of somebody's",
            buffer("mine", b"\x30", b"\x30"),
            [&[], &[(E::Unknown, S::Warning)], &[], &[(E::Unknown, S::Warning)]],
        ),
        (
            "a certificate in a keyring of somebody's",
            buffer("mine", &der, &der),
            [
                &[(E::Key, S::Notice)],
                &[(E::Key, S::Alert)],
                &[(E::Key, S::Notice)],
                &[(E::Key, S::Alert)],
            ],
        ),
        (
            "a buffer that is not what its digest says",
            buffer("kexec-cmdline", b"quiet", b"init=/bin/sh"),
            [&[(E::Broken, S::Alert)]; 4],
        ),
        ("violation", violation(b"/bin/a"), [&[(E::Violation, S::Warning)]; 4]),
        ("violation of a module", violation(b"/a.ko"), [&[(E::Violation, S::Warning)]; 4]),
        ("broken", broken, [&[(E::Broken, S::Alert)]; 4]),
    ];
    for (what, record, wants) in cases {
        let judges = [(false, false), (true, false), (false, true), (true, true)];
        for ((by_reference, by_key), want) in judges.into_iter().zip(wants) {
            let judge = Judge {
                reference: by_reference.then_some(&reference),
                keyring: by_key.then_some(&keyring),
                boot_aggregate: None,
            };
            assert_eq!(told(judge, record), **want, "{what} {by_reference} {by_key}");
        }
    }
}

#[test]
fn another_boot_is_told() {
    let right = sha256(b"the boot");
    let judge = Judge { boot_aggregate: Some(&right), ..Judge::default() };
    for (content, want) in [(&b"the boot"[..], 0), (b"another", 1)] {
        let mut watch = Watch::new(judge, ten());
        let told = watch.record(&file(b"boot_aggregate", content, b"")).unwrap();
        assert_eq!(told.len(), want);
        assert!(told.iter().all(|report| report.event == Event::OtherBoot));
    }
}

/// The value of PCR 10 after so many of these records.
fn after(records: &[Record], number: usize) -> Digest {
    let mut replay = Replay::new(Algorithm::Sha256, Filling::Hashed);
    records.iter().take(number).for_each(|record| replay.add(record).unwrap());
    replay.value(ten())
}

#[test]
fn the_pcr_may_be_ahead_of_what_was_read_and_one_record_behind() {
    let records: Vec<_> =
        (0..5_u8).map(|number| file(&[b'/', b'a' + number], &[number], b"")).collect();
    // Records that were read before and after the PCR, and where it stood.
    for (before, behind, pcr, is_right) in [
        (0, 0, 0, true),
        (0, 5, 5, true),
        (2, 2, 4, true),
        (2, 3, 3, true),
        (2, 2, 2, true),
        (3, 0, 3, true),
        (3, 0, 2, true),
        (3, 2, 1, false),
        (3, 0, 4, false),
        (3, 1, 5, false),
        (0, 0, 1, false),
    ] {
        let mut watch = Watch::new(Judge::default(), ten());
        let mut rest = records.iter();
        let mut read = |watch: &mut Watch<'_>, number| {
            rest.by_ref().take(number).for_each(|record| {
                watch.record(record).unwrap();
            });
        };
        read(&mut watch, before);
        assert_eq!(watch.is_read(&BTreeSet::new()), []);
        watch.pcr(after(&records, pcr));
        read(&mut watch, behind);
        let told = watch.is_read(&BTreeSet::new());
        assert_eq!(told.is_empty(), is_right, "{before} {behind} {pcr}: {told:?}");
        // It is told once: nothing leads there any more.
        watch.pcr(after(&records, 1));
        assert_eq!(
            watch.is_read(&BTreeSet::new()).is_empty(),
            !is_right || (1..=2).contains(&(before + behind))
        );
    }
}

#[test]
fn a_record_that_cannot_be_read_is_told_and_the_pcr_is_not_blamed() {
    let mut watch = Watch::new(Judge::default(), ten());
    let report = watch.unreadable(&ListError::Cut(1));
    assert_eq!((report.event, report.severity), (Event::Unreadable, Severity::Alert));
    watch.pcr(sha256(b"elsewhere"));
    assert_eq!(watch.is_read(&BTreeSet::new()), []);
    assert_eq!(watch.entries(), 1);
}

#[test]
fn a_module_without_a_record_is_told_each_time_it_is_loaded() {
    let mut watch = Watch::new(Judge::default(), ten());
    let loaded = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    watch.record(&file(b"/lib/modules/6/my-fs.ko", b"m", b"")).unwrap();
    let names = |reports: Vec<Report>| -> Vec<Vec<u8>> {
        assert!(reports.iter().all(|report| report.event == Event::ModuleUnmeasured));
        reports.into_iter().filter_map(|report| report.name).collect()
    };
    assert_eq!(names(watch.is_read(&loaded(&["my_fs", "evil"]))), [b"evil"]);
    assert!(watch.is_read(&loaded(&["my_fs", "evil"])).is_empty());
    assert!(watch.is_read(&loaded(&["my_fs"])).is_empty());
    assert_eq!(names(watch.is_read(&loaded(&["my_fs", "evil"]))), [b"evil"]);
}

/// The list has the digest of one that came as memory, and not its name.
#[test]
fn a_known_module_from_memory_explains_one_name() {
    let loaded = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let mut reference = Reference::new();
    let digest = FileDigest::new(None, "sha256", sha256(b"good").as_bytes().to_vec()).unwrap();
    reference.add_buffer(INIT_MODULE, digest);
    let judge = Judge { reference: Some(&reference), ..Judge::default() };
    for (content, severity, told) in
        [(&b"good"[..], Severity::Info, 1), (b"evil", Severity::Alert, 2)]
    {
        let mut watch = Watch::new(judge, ten());
        watch.record(&file(b"/first", b"", b"")).unwrap();
        let reports = watch.record(&buffer("init_module", content, content)).unwrap();
        let events: Vec<_> = reports.iter().map(|one| (one.event, one.severity)).collect();
        assert_eq!(events, [(Event::Module, severity)]);
        assert_eq!(watch.is_read(&loaded(&["dummy", "second"])).len(), told);
        assert_eq!(watch.is_read(&loaded(&["dummy", "second"])), []);
    }
}

#[test]
fn a_list_that_shrinks_is_read_anew() {
    let mut watch = Watch::new(Judge::default(), ten());
    let records = [file(b"/a", b"a", b""), file(b"/b", b"b", b"")];
    watch.record(&records[0]).unwrap();
    let report = watch.shrank(1, 0);
    assert_eq!((report.event, report.severity), (Event::Shrank, Severity::Alert));
    watch.pcr(after(&records, 2));
    for record in &records {
        watch.record(record).unwrap();
    }
    assert_eq!(watch.is_read(&BTreeSet::new()), []);
    assert_eq!(watch.entries(), 2);
}
