use super::*;

/// The emulated board's kernel is asked about the same rules (tests/tests/emulated/integrity.rs).
const TAKEN: &str = include_str!("../../tests/data/rules-taken");
const REFUSED: &str = include_str!("../../tests/data/rules-refused");

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

#[test]
fn rules_come_out_as_they_went_in() {
    for text in lines(TAKEN) {
        let rule = Rule::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(rule.to_string(), text);
        assert_eq!(Rule::parse(&rule.to_string()), Ok(rule));
    }
}

#[test]
fn other_ways_to_say_the_same_are_understood() {
    for (one, other) in [
        ("measure\tfunc=PATH_CHECK", "measure func=FILE_CHECK"),
        ("func=FILE_MMAP  measure", "measure func=MMAP_CHECK"),
        ("dont_measure fsmagic=9FA0", "dont_measure fsmagic=0x9fa0"),
        ("appraise appraise_flag=check_blacklist", "appraise"),
    ] {
        assert_eq!(Rule::parse(one), Rule::parse(other), "{one}");
        assert!(Rule::parse(one).is_ok(), "{one}");
    }
}

#[test]
fn what_no_kernel_takes_is_named() {
    for line in lines(REFUSED) {
        let (text, why) = line.split_once('\t').unwrap();
        let error = Rule::parse(text).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    assert!(matches!(Rule::parse(&"a".repeat(5000)), Err(RuleError::Long(5000))));
}

#[test]
fn a_policy_names_every_line_that_is_none() {
    let good = "# what runs\n\nmeasure func=BPRM_CHECK\n\t measure func=MMAP_CHECK mask=MAY_EXEC\n";
    let rules = parse(good).unwrap();
    assert_eq!(rules.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [3, 4]);
    let bad = "measure\nmeasur\x1b\n# x\nmeasure pcr=99\n";
    let errors: Vec<_> = parse(bad).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        errors,
        [
            "line 2: `measur?` is no word of a rule: measur?",
            "line 4: `pcr` does not take `99`: measure pcr=99"
        ]
    );
}

#[test]
fn a_kernel_takes_what_it_knows() {
    let takes = |kernel: &Kernel, text: &str| kernel.takes(&Rule::parse(text).unwrap());
    let all = Kernel::new("6.12.117").unwrap();
    let labelled = "measure func=FILE_CHECK obj_type=etc_t";
    let keys = "measure func=KEY_CHECK";
    let appended = "appraise func=MODULE_CHECK appraise_type=imasig|modsig";
    for text in lines(TAKEN).chain([labelled]) {
        assert_eq!(takes(&all, text), Ok(()), "{text}");
    }
    let old = Kernel::new("6.1.0-28-arm64").unwrap();
    let said = takes(&old, "measure func=MMAP_CHECK_REQPROT").unwrap_err().to_string();
    assert!(said.contains("it is Linux 6.1, and that came with 6.3"), "{said}");
    let small = all.with_config("CONFIG_IMA=y\nCONFIG_IMA_APPRAISE=y\n").unwrap();
    for text in [labelled, keys, appended] {
        assert!(takes(&small, text).is_err(), "{text}");
    }
    assert_eq!(takes(&small, "measure func=BPRM_CHECK"), Ok(()));
    for (release, config, why) in [
        ("5.10.0", "", "is older than 6.1"),
        ("six", "", "`six` is no version"),
        ("6.12", "CONFIG_IMA=m\n# CONFIG_IMA_APPRAISE is not set\n", "without CONFIG_IMA"),
    ] {
        let kernel = Kernel::new(release).and_then(|kernel| kernel.with_config(config));
        let error = kernel.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
