use super::*;

/// Rules that Linux 6.12 takes, as they are written here.
const TAKEN: [&str; 32] = [
    "measure",
    "dont_measure fsmagic=0x9fa0",
    "dont_appraise fsmagic=0x62656572",
    "measure func=BPRM_CHECK",
    "measure func=MMAP_CHECK mask=MAY_EXEC",
    "measure func=FILE_CHECK mask=^MAY_READ euid=0",
    "measure func=FILE_CHECK mask=^MAY_READ uid>999",
    "measure func=FILE_CHECK egid<100 fowner=0 fgroup>5",
    "measure func=MODULE_CHECK",
    "measure func=FIRMWARE_CHECK pcr=11",
    "measure func=KEXEC_CMDLINE uid=0",
    "measure func=KEY_CHECK keyrings=.ima|.builtin_trusted_keys",
    "measure func=KEY_CHECK uid=0 pcr=12",
    "measure func=CRITICAL_DATA label=selinux|kernel_info",
    "measure func=BPRM_CHECK template=ima-sig",
    "measure func=BPRM_CHECK digest_type=verity template=ima-sigv2",
    "measure fsname=ext4",
    "measure fsuuid=8bcbe394-4f13-4144-be8e-5aa9ea2ce2f6",
    "appraise fowner=0",
    "appraise func=BPRM_CHECK appraise_type=imasig",
    "appraise func=BPRM_CHECK digest_type=verity appraise_type=sigv3",
    "appraise func=MODULE_CHECK appraise_type=imasig|modsig",
    "appraise func=KEXEC_KERNEL_CHECK appraise_type=imasig|modsig",
    "appraise func=FILE_CHECK appraise_algos=sha256,sha512",
    "appraise func=SETXATTR_CHECK appraise_algos=sha256,sha384,sha512",
    "appraise func=FILE_CHECK permit_directio",
    "appraise func=POLICY_CHECK appraise_type=imasig",
    "audit func=BPRM_CHECK",
    "hash func=FILE_CHECK uid=5",
    "dont_hash fsmagic=0x9fa0",
    "measure func=MMAP_CHECK_REQPROT",
    "measure func=CREDS_CHECK",
];

/// Rules that no Linux takes, and what is wrong with them.
const REFUSED: [(&str, &str); 38] = [
    ("", "it does not say what to do"),
    ("func=BPRM_CHECK", "it does not say what to do"),
    ("measure appraise", "`action` is said twice"),
    ("observe func=BPRM_CHECK", "`observe` is no word"),
    ("measure func=BPRM", "`func` does not take `BPRM`"),
    ("measure func=", "`func` does not take ``"),
    ("measure func", "`func` is no word"),
    ("measure func>BPRM_CHECK", "`func>BPRM_CHECK` is no word"),
    ("measure func=BPRM_CHECK func=FILE_CHECK", "`func` is said twice"),
    ("measure mask=READ", "`mask` does not take `READ`"),
    ("measure mask=^^MAY_READ", "`mask` does not take `^^MAY_READ`"),
    ("measure fsmagic=proc", "`fsmagic` does not take `proc`"),
    ("measure fsmagic=0x", "`fsmagic` does not take `0x`"),
    ("measure fsuuid=8bcbe394", "`fsuuid` does not take"),
    ("measure fsuuid=8bcbe3944-f13-4144-be8e-5aa9ea2ce2f6", "`fsuuid` does not take"),
    ("measure uid=root", "`uid` does not take `root`"),
    ("measure uid=4294967295", "`uid` does not take"),
    ("measure uid=-1", "`uid` does not take"),
    ("measure uid=0 euid=0", "`uid` is said twice"),
    ("measure pcr=64", "`pcr` does not take `64`"),
    ("measure pcr=", "`pcr` does not take"),
    ("appraise pcr=10", "`pcr` is not for `appraise`"),
    ("measure appraise_type=imasig", "`appraise_type` is not for `measure`"),
    ("appraise appraise_type=sig", "`appraise_type` does not take `sig`"),
    ("appraise appraise_type=sigv3", "has to stand behind `digest_type`"),
    ("appraise appraise_type=imasig digest_type=verity", "has to stand behind"),
    ("appraise digest_type=verity", "`digest_type` needs"),
    ("appraise digest_type=verity appraise_type=imasig", "does not take `imasig`"),
    ("appraise func=BPRM_CHECK appraise_type=imasig|modsig", "is not for `func=BPRM_CHECK`"),
    ("appraise template=ima-ng", "`template` has to stand behind `measure`"),
    ("template=ima-ng measure", "`template` has to stand behind `measure`"),
    ("measure template=ima-next", "`template` does not take `ima-next`"),
    ("appraise func=KEY_CHECK", "`appraise` is not for `func=KEY_CHECK`"),
    ("measure func=BPRM_CHECK keyrings=.ima", "`keyrings` is not for"),
    ("measure func=KEY_CHECK keyrings=.ima||x", "`keyrings` does not take"),
    ("measure func=KEY_CHECK fowner=0", "`fowner` is not for"),
    ("appraise func=SETXATTR_CHECK", "needs `appraise_algos`"),
    ("measure func=KEXEC_CMDLINE mask=MAY_READ", "`mask` is not for"),
];

#[test]
fn rules_come_out_as_they_went_in() {
    for text in TAKEN {
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
    for (text, why) in REFUSED {
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
    for text in TAKEN.into_iter().chain([labelled]) {
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
