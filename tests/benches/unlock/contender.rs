//! What is measured: how each program is enrolled on the volume, and how it opens it.

/// The volume.
pub(crate) const DEVICE: &str = "/dev/mmcblk0p2";
/// The name that it is opened by.
pub(crate) const NAME: &str = "root";
/// The file with the secret of key slot 1.
pub(crate) const SECRET: &str = "/run/secret";
/// The file with the recovery key, that of key slot 0.
pub(crate) const RECOVERY: &str = "/run/recovery";
/// Where tpm2-initramfs-tool's output goes, and its own secret.
const KEY: &str = "/run/key";
const OWN: &str = "/run/own";

/// A way to open the volume. Commands are lists of words; `{device}` and the like are
/// replaced. Enrolling is done by a shell, in the peers' root; opening by the stopwatch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    /// Debian's package whose version is shown.
    pub(crate) package: Option<&'static str>,
    pub(crate) enrol: &'static [&'static str],
    pub(crate) open: &'static [Step],
    /// A file with what the TPM kept for it, where that can be known.
    pub(crate) secret: Option<&'static str>,
    /// How many rounds it is in; what takes seconds is in few.
    pub(crate) rounds: usize,
}

/// How often everything is opened and timed.
pub(crate) const ROUNDS: usize = 15;

/// One program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) command: &'static str,
    /// Where its standard output goes.
    pub(crate) output: &'static str,
    /// It runs in the guest's own root, not in the peers'.
    pub(crate) own_root: bool,
}

const fn step(command: &'static str, output: &'static str) -> Step {
    Step { command, output, own_root: false }
}

/// What everything is compared with: no TPM, the secret in a file.
pub(crate) const FLOOR: Contender = Contender {
    name: "cryptsetup, key file",
    package: Some("cryptsetup-bin"),
    enrol: &[],
    open: &[step(
        "/usr/sbin/cryptsetup open --key-file {secret} --key-slot 1 {device} {name}",
        "/dev/null",
    )],
    secret: None,
    rounds: ROUNDS,
};

/// Ours. The first boot has enrolled it.
pub(crate) const OURS: Contender = Contender {
    name: "initramfs-unseal",
    package: None,
    enrol: &[],
    open: &[Step { command: "/bin/initramfs-unseal unlock", output: "/dev/null", own_root: true }],
    secret: Some(SECRET),
    rounds: ROUNDS,
};

/// As cryptroot's keyscript has it, without the shell around it.
const INITRAMFS_TOOL: Contender = Contender {
    name: "tpm2-initramfs-tool",
    package: Some("tpm2-initramfs-tool"),
    enrol: &[
        "head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' >{own}",
        "cryptsetup luksAddKey --batch-mode --key-file {secret} --new-key-slot 2 --pbkdf pbkdf2 \
         --pbkdf-force-iterations 1000 {device} {own}",
        "tpm2-initramfs-tool seal --pcrs {pcrs} --data $(cat {own}) >/dev/null",
    ],
    open: &[
        step("/usr/bin/tpm2-initramfs-tool unseal --pcrs {pcrs}", KEY),
        step(
            "/usr/sbin/cryptsetup open --key-file {key} --key-slot 2 {device} {name}",
            "/dev/null",
        ),
    ],
    secret: Some(OWN),
    rounds: ROUNDS,
};

const SYSTEMD: Contender = Contender {
    name: "systemd-cryptsetup",
    package: Some("systemd-cryptsetup"),
    enrol: &["systemd-cryptenroll --unlock-key-file={secret} --tpm2-device=/dev/tpmrm0 \
              --tpm2-pcrs=0+1+8+9 {device}"],
    open: &[step(
        "/usr/bin/systemd-cryptsetup attach {name} {device} - tpm2-device=/dev/tpmrm0,headless=1",
        "/dev/null",
    )],
    secret: None,
    rounds: ROUNDS,
};

const CLEVIS: Contender = Contender {
    name: "clevis",
    package: Some("clevis-luks"),
    enrol: &["clevis luks bind -f -y -k {secret} -d {device} tpm2 \
              '{\"pcr_bank\":\"sha256\",\"pcr_ids\":\"{pcrs}\"}'"],
    open: &[step("/usr/bin/clevis luks unlock -d {device} -n {name}", "/dev/null")],
    secret: None,
    rounds: 3,
};

/// In the order in which they are shown.
pub(crate) const ALL: &[Contender] = &[FLOOR, OURS, INITRAMFS_TOOL, SYSTEMD, CLEVIS];

/// A command with everything filled in.
pub(crate) fn filled(command: &str) -> String {
    [
        ("{device}", DEVICE),
        ("{name}", NAME),
        ("{secret}", SECRET),
        ("{key}", KEY),
        ("{own}", OWN),
        ("{pcrs}", "0,1,8,9"),
    ]
    .iter()
    .fold(command.to_owned(), |text, (from, to)| text.replace(from, to))
}
