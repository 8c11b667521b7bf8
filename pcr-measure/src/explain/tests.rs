use super::*;

fn pcr(index: u32) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

/// A reference of one-letter components whose content is their name.
fn reference(events: &[(u32, &str)], seal: &[u32]) -> Reference {
    let mut builder = Manifest::builder("i", "b").seal(seal);
    for (pcr, name) in events {
        builder = builder.event(*pcr, *name, Measurement::of(name.as_bytes()), "");
    }
    builder.build().unwrap().reference()
}

fn log(events: &[(u32, &str)]) -> MeasuredLog {
    let event = |(index, content): &(u32, &str)| MeasuredEvent {
        pcr: pcr(*index),
        digest: Sha256Digest::of(content.as_bytes()),
        description: format!("log says {content}"),
    };
    let events: Vec<_> = events.iter().map(event).collect();
    let values = replay(events.iter().map(|e| (e.pcr, e.digest)));
    MeasuredLog { events, values, whole: true }
}

fn live(events: &[(u32, &str)], also_zero: &[u32]) -> PcrBank {
    let mut bank = log(events).values;
    for index in also_zero {
        bank.set(pcr(*index), Sha256Digest::ZERO).unwrap();
    }
    bank
}

#[test]
fn events_are_aligned_per_pcr() {
    use Verdict::{Differs, Equal, Extra, Missing};
    type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [(Verdict, &'a str)]);
    let cases: &[Case<'_>] = &[
        (&["a", "b", "c"], &["a", "b", "c"], &[(Equal, "a"), (Equal, "b"), (Equal, "c")]),
        (&["a", "b", "c"], &["a", "x", "c"], &[(Equal, "a"), (Differs, "b"), (Equal, "c")]),
        (&["a", "b", "c"], &["a", "c"], &[(Equal, "a"), (Missing, "b"), (Equal, "c")]),
        (&["a", "b"], &["a", "x", "b"], &[(Equal, "a"), (Extra, "x"), (Equal, "b")]),
        (&["a", "b"], &["x", "y"], &[(Differs, "a"), (Differs, "b")]),
        (&["a", "b"], &["b", "a"], &[(Differs, "a"), (Differs, "b")]),
        (&["a", "b", "c"], &["x", "b", "y"], &[(Differs, "a"), (Equal, "b"), (Differs, "c")]),
        (
            &["a", "b", "c", "d"],
            &["b", "x", "d", "y"],
            &[(Missing, "a"), (Equal, "b"), (Differs, "c"), (Equal, "d"), (Extra, "y")],
        ),
        (&["a"], &[], &[(Missing, "a")]),
    ];
    for (expected, measured, want) in cases {
        let (expected, measured): (Vec<_>, Vec<_>) = (
            expected.iter().map(|n| (1, *n)).collect(),
            measured.iter().map(|n| (1, *n)).collect(),
        );
        let got =
            explain(&reference(&expected, &[1]), Some(&log(&measured)), &live(&measured, &[]));
        let got: Vec<_> = got
            .entries
            .iter()
            .map(|e| (e.verdict, e.component.replace("not in the manifest: log says ", "")))
            .collect();
        let want: Vec<_> = want.iter().map(|(v, n)| (*v, (*n).to_owned())).collect();
        assert_eq!(got, want, "{expected:?} {measured:?}");
    }
}

#[test]
fn nothing_differs_when_all_is_as_expected() {
    let events = [(0, "v"), (8, "k"), (1, "d"), (1, "c")];
    let got =
        explain(&reference(&events, &[0, 1, 8, 15]), Some(&log(&events)), &live(&events, &[15]));
    assert!(got.is_as_expected());
    assert_eq!(got.differences(), []);
    assert_eq!(got.contradictions().count(), 0);
}

#[test]
fn a_changed_command_line_is_named() {
    let expected = [(1, "device tree"), (1, "command line"), (8, "kernel")];
    let measured = [(1, "device tree"), (1, "init=/bin/sh"), (8, "kernel")];
    let got = explain(&reference(&expected, &[1, 8]), Some(&log(&measured)), &live(&measured, &[]));
    let (e, m) = (Sha256Digest::of(b"command line"), Sha256Digest::of(b"init=/bin/sh"));
    let want = Difference {
        pcr: pcr(1),
        component: "command line".to_owned(),
        expected: Some(e),
        measured: Some(m),
    };
    assert_eq!(got.differences(), std::slice::from_ref(&want));
    let line = format!(
        "differs: PCR 1, command line: expected {}…, measured {}…",
        &e.to_string()[..16],
        &m.to_string()[..16]
    );
    assert_eq!(want.to_string(), line);
    assert_eq!(
        serde_json::to_value(want).unwrap(),
        serde_json::json!({"pcr": 1, "component": "command line", "expected": e.to_string(), "measured": m.to_string()})
    );
}

#[test]
fn a_log_that_leads_elsewhere_is_not_believed() {
    // The log was forged to look as expected; the TPM knows better.
    let events = [(1, "a"), (8, "k")];
    let truth = [(1, "x"), (8, "k")];
    let got = explain(&reference(&events, &[1, 8]), Some(&log(&events)), &live(&truth, &[]));
    let wrong: Vec<_> = got.contradictions().map(|v| v.pcr).collect();
    assert_eq!(wrong, [pcr(1)]);
    assert!(!got.is_as_expected());
    let differences = got.differences();
    assert_eq!(differences.len(), 1);
    assert_eq!(differences[0].component, WHOLE_PCR);
    assert_eq!(differences[0].measured, live(&truth, &[]).sha256(pcr(1)));
    assert!(got.entries.iter().all(|e| e.pcr == pcr(8)));
}

#[test]
fn a_broken_log_does_not_make_a_good_boot_bad() {
    let events = [(1, "a"), (8, "k")];
    let got = explain(&reference(&events, &[1, 8]), Some(&log(&[(1, "x")])), &live(&events, &[]));
    assert!(got.is_as_expected());
    assert_eq!(got.differences(), []);
    assert_eq!(got.contradictions().count(), 2);
}

#[test]
fn without_a_log_the_pcr_is_named() {
    let events = [(1, "a"), (8, "k")];
    let got = explain(&reference(&events, &[1, 8]), None, &live(&[(1, "a"), (8, "x")], &[]));
    let differences = got.differences();
    assert_eq!(differences.len(), 1);
    assert_eq!((differences[0].pcr, differences[0].component.as_str()), (pcr(8), WHOLE_PCR));
    assert_eq!(got.contradictions().count(), 0);
}

#[test]
fn a_latch_that_has_fallen_is_named() {
    let events = [(1, "a")];
    let after = [(1, "a"), (15, "latch")];
    let got = explain(&reference(&events, &[1, 15]), Some(&log(&events)), &live(&after, &[]));
    let differences = got.sealed_differences();
    assert_eq!(differences.len(), 1);
    assert_eq!((differences[0].pcr, differences[0].expected), (pcr(15), Some(Sha256Digest::ZERO)));
}

#[test]
fn what_is_not_known_is_not_called_good() {
    let events = [(1, "a")];
    let got = explain(&reference(&events, &[1]), None, &PcrBank::new(Algorithm::Sha256));
    assert!(!got.is_as_expected());
    assert_eq!(got.differences(), []);
    // With a log alone its word is taken, and its differences named.
    let got = explain(
        &reference(&events, &[1]),
        Some(&log(&[(1, "x")])),
        &PcrBank::new(Algorithm::Sha256),
    );
    assert_eq!(got.differences()[0].component, "a");
    assert_eq!(got.pcrs[0].log_agrees, None);
}

#[test]
fn a_log_that_is_not_whole_speaks_against_a_pcr_and_never_for_it() {
    let nothing = PcrBank::new(Algorithm::Sha256);
    let events = [(1, "a"), (8, "k")];
    let cut = MeasuredLog { whole: false, ..log(&events) };
    let got = explain(&reference(&events, &[1, 8]), Some(&cut), &nothing);
    assert!(got.pcrs.iter().all(|pcr| pcr.as_expected.is_none()));
    assert!(!got.is_as_expected());
    let cut = MeasuredLog { whole: false, ..log(&[(1, "x"), (8, "k")]) };
    let got = explain(&reference(&events, &[1, 8]), Some(&cut), &nothing);
    let verdicts: Vec<_> = got.pcrs.iter().map(|pcr| pcr.as_expected).collect();
    assert_eq!(verdicts, [Some(false), None]);
    // The TPM's values need no log.
    let got = explain(&reference(&events, &[1, 8]), Some(&cut), &live(&events, &[]));
    assert!(got.is_as_expected());
}

#[test]
fn only_sealed_pcrs_explain_a_refusal() {
    let got = explain(
        &reference(&[(2, "a"), (8, "k")], &[8]),
        Some(&log(&[(2, "x"), (8, "y")])),
        &live(&[(2, "x"), (8, "y")], &[]),
    );
    assert_eq!(got.differences().len(), 2);
    let sealed: Vec<_> = got.sealed_differences().into_iter().map(|d| d.pcr).collect();
    assert_eq!(sealed, [pcr(8)]);
}

#[test]
fn a_forged_log_of_many_events_is_bounded() {
    let names: Vec<String> = (0..200).map(|i| format!("c{i}")).collect();
    let events: Vec<_> = names.iter().map(|n| (1, n.as_str())).collect();
    let many: Vec<_> = (0..6_000).map(|_| (1, "x")).collect();
    let got = explain(&reference(&events, &[1]), Some(&log(&many)), &live(&many, &[]));
    assert_eq!(got.entries.len(), 6_000);
}

/// PCR 15 of a system that is up.
#[test]
fn a_shut_latch_says_nothing_about_what_booted() {
    let expected = reference(&[(0, "U-Boot"), (8, "kernel")], &[0, 8, 15]);
    let mut live = expected.sealed_values();
    let open = explain(&expected, None, &live);
    assert_eq!(open.latch(), Some(Latch::Open));
    assert!(open.is_as_expected() && open.boot_is_as_expected());
    live.set(pcr(15), Sha256Digest::of(b"volume key")).unwrap();
    let shut = explain(&expected, None, &live);
    assert_eq!(shut.latch(), Some(Latch::Shut));
    assert!(!shut.is_as_expected(), "the key is not to be had any more");
    assert!(shut.boot_is_as_expected());
    assert!(shut.boot_differences().is_empty());
    // And it hides nothing.
    live.set(pcr(8), Sha256Digest::of(b"another kernel")).unwrap();
    let other = explain(&expected, None, &live);
    assert!(!other.boot_is_as_expected());
    assert_eq!(other.boot_differences().len(), 1);
    assert_eq!(explain(&expected, None, &PcrBank::new(Algorithm::Sha256)).latch(), None);
}
use crate::manifest::{Manifest, Measurement, replay};
