//! What a rule says.

use std::collections::BTreeMap;
use std::fmt;

/// Words of the kernel's, each with its value.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$its:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $name { $($(#[$its])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As a rule has it.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            pub(super) fn of(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|its| its.word() == word)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

words! {
    /// What is done with a file that a rule fits. Of the rules about measuring the first that
    /// fits decides, and so of those about appraising, auditing and hashing.
    Action {
        /// Into the list, and a PCR extended by it.
        Measure = "measure",
        /// No rule about measuring behind this one is looked at.
        DontMeasure = "dont_measure",
        /// Only with a hash or signature that holds.
        Appraise = "appraise",
        /// No rule about appraising behind this one is looked at.
        DontAppraise = "dont_appraise",
        /// A record in the audit log.
        Audit = "audit",
        /// Hashed for others: nothing else follows.
        Hash = "hash",
        /// Not hashed.
        DontHash = "dont_hash",
    }
}

words! {
    /// Where the kernel asks. Without one a rule is for all that are about files.
    Hook {
        /// A file is opened.
        FileCheck = "FILE_CHECK",
        /// A file is mapped, and its code may run.
        MmapCheck = "MMAP_CHECK",
        /// The same, by what was asked for and not by what came of it.
        MmapCheckReqprot = "MMAP_CHECK_REQPROT",
        /// A program is started.
        BprmCheck = "BPRM_CHECK",
        /// The same, with the credentials that it will have.
        CredsCheck = "CREDS_CHECK",
        /// A kernel module is loaded.
        ModuleCheck = "MODULE_CHECK",
        /// Firmware of a device is loaded.
        FirmwareCheck = "FIRMWARE_CHECK",
        /// A kernel is loaded that will be started by this one.
        KexecKernelCheck = "KEXEC_KERNEL_CHECK",
        /// Its initramfs.
        KexecInitramfsCheck = "KEXEC_INITRAMFS_CHECK",
        /// Its command line.
        KexecCmdline = "KEXEC_CMDLINE",
        /// A policy is loaded by its path.
        PolicyCheck = "POLICY_CHECK",
        /// A key is added to a keyring.
        KeyCheck = "KEY_CHECK",
        /// Data of the kernel's own that others handed to IMA.
        CriticalData = "CRITICAL_DATA",
        /// `security.ima` of a file is written.
        SetxattrCheck = "SETXATTR_CHECK",
    }
}

words! {
    /// What a file is opened for.
    Access {
        /// To run it.
        Exec = "MAY_EXEC",
        /// To write.
        Write = "MAY_WRITE",
        /// To read.
        Read = "MAY_READ",
        /// To append.
        Append = "MAY_APPEND",
    }
}

words! {
    /// A label of a security module.
    Label {
        /// User of the object.
        ObjectUser = "obj_user",
        /// Its role.
        ObjectRole = "obj_role",
        /// Its type.
        ObjectType = "obj_type",
        /// User of the subject.
        SubjectUser = "subj_user",
        /// Its role.
        SubjectRole = "subj_role",
        /// Its type.
        SubjectType = "subj_type",
    }
}

words! {
    /// How two numbers are compared.
    Compare {
        /// Equal.
        Equal = "=",
        /// Above the rule's.
        Above = ">",
        /// Below the rule's.
        Below = "<",
    }
}

words! {
    /// What appraisal asks for, beyond a hash.
    AppraiseType {
        /// A signature in `security.ima`, version 2.
        Signature = "imasig",
        /// That, or one appended to the file.
        SignatureOrAppended = "imasig|modsig",
        /// A signature of version 3, over the fs-verity digest.
        Verity = "sigv3",
    }
}

/// What a file is opened for: this and nothing else, or this among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask {
    /// What for.
    pub access: Access,
    /// `^`: whatever else it is opened for.
    pub among_others: bool,
}

/// Who acts: user or group of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// `euid`, `egid`: the effective one, and of a process that may change it also the real
    /// and the saved one (`ima_match_rules`).
    pub is_effective: bool,
    /// How.
    pub compare: Compare,
    /// Number of the user or group.
    pub id: u32,
}

/// Whose a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// How.
    pub compare: Compare,
    /// Number of the user or group.
    pub id: u32,
}

/// A rule. All of its conditions have to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What to do.
    pub action: Action,
    /// Where.
    pub hook: Option<Hook>,
    /// What the file is opened for.
    pub mask: Option<Mask>,
    /// Magic number of the file system (statfs(2)).
    pub fsmagic: Option<u64>,
    /// Its name, as in /proc/filesystems.
    pub fsname: Option<String>,
    /// UUID of the one file system that is meant.
    pub fsuuid: Option<[u8; 16]>,
    /// `uid`, `euid`.
    pub user: Option<Subject>,
    /// `gid`, `egid`.
    pub group: Option<Subject>,
    /// `fowner`.
    pub file_user: Option<Owner>,
    /// `fgroup`.
    pub file_group: Option<Owner>,
    /// Labels.
    pub labels: BTreeMap<Label, String>,
    /// `digest_type=verity`.
    pub is_verity: bool,
    /// `appraise_type`.
    pub appraise_type: Option<AppraiseType>,
    /// `appraise_algos`: hashes that `security.ima` may have.
    pub hashes: Vec<String>,
    /// `permit_directio`.
    pub permits_direct_io: bool,
    /// Another PCR than IMA's own.
    pub pcr: Option<u8>,
    /// Template of its records.
    pub template: Option<String>,
    /// Keyrings of [`Hook::KeyCheck`].
    pub keyrings: Vec<String>,
    /// Kinds of [`Hook::CriticalData`].
    pub kinds: Vec<String>,
}

impl Rule {
    /// A rule without a condition.
    #[must_use]
    pub const fn new(action: Action) -> Self {
        Self {
            action,
            hook: None,
            mask: None,
            fsmagic: None,
            fsname: None,
            fsuuid: None,
            user: None,
            group: None,
            file_user: None,
            file_group: None,
            labels: BTreeMap::new(),
            is_verity: false,
            appraise_type: None,
            hashes: Vec::new(),
            permits_direct_io: false,
            pcr: None,
            template: None,
            keyrings: Vec::new(),
            kinds: Vec::new(),
        }
    }

    /// The same, at this hook.
    #[must_use]
    pub const fn at(mut self, hook: Hook) -> Self {
        self.hook = Some(hook);
        self
    }

    /// The same, for files that are opened for this, among others.
    #[must_use]
    pub const fn when_opened_to(mut self, access: Access) -> Self {
        self.mask = Some(Mask { access, among_others: true });
        self
    }

    /// The same, on file systems of this magic number.
    #[must_use]
    pub const fn on(mut self, fsmagic: u64) -> Self {
        self.fsmagic = Some(fsmagic);
        self
    }

    /// The same, for processes that act as this user.
    #[must_use]
    pub const fn by_user(mut self, id: u32) -> Self {
        self.user = Some(Subject { is_effective: true, compare: Compare::Equal, id });
        self
    }

    /// The same, for files of this user.
    #[must_use]
    pub const fn of_user(mut self, id: u32) -> Self {
        self.file_user = Some(Owner { compare: Compare::Equal, id });
        self
    }

    /// The same, with a signature.
    #[must_use]
    pub const fn signed(mut self, how: AppraiseType) -> Self {
        self.appraise_type = Some(how);
        self
    }
}

/// In an order that the kernel takes: `template` behind the action, `appraise_type` behind
/// `digest_type`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.action)?;
        if let Some(hook) = self.hook {
            write!(f, " func={hook}")?;
        }
        if let Some(mask) = self.mask {
            write!(f, " mask={}{}", if mask.among_others { "^" } else { "" }, mask.access)?;
        }
        if let Some(magic) = self.fsmagic {
            write!(f, " fsmagic={magic:#x}")?;
        }
        if let Some(name) = &self.fsname {
            write!(f, " fsname={name}")?;
        }
        if let Some(uuid) = &self.fsuuid {
            f.write_str(" fsuuid=")?;
            for (at, byte) in uuid.iter().enumerate() {
                write!(f, "{}{byte:02x}", if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" })?;
            }
        }
        for (name, subject) in [("uid", self.user), ("gid", self.group)] {
            if let Some(Subject { is_effective, compare, id }) = subject {
                write!(f, " {}{name}{compare}{id}", if is_effective { "e" } else { "" })?;
            }
        }
        for (name, owner) in [("fowner", self.file_user), ("fgroup", self.file_group)] {
            if let Some(Owner { compare, id }) = owner {
                write!(f, " {name}{compare}{id}")?;
            }
        }
        for (label, value) in &self.labels {
            write!(f, " {label}={value}")?;
        }
        for (name, items, between) in [
            ("keyrings", &self.keyrings, "|"),
            ("label", &self.kinds, "|"),
            ("appraise_algos", &self.hashes, ","),
        ] {
            if !items.is_empty() {
                write!(f, " {name}={}", items.join(between))?;
            }
        }
        if self.is_verity {
            f.write_str(" digest_type=verity")?;
        }
        if let Some(how) = self.appraise_type {
            write!(f, " appraise_type={how}")?;
        }
        if self.permits_direct_io {
            f.write_str(" permit_directio")?;
        }
        if let Some(pcr) = self.pcr {
            write!(f, " pcr={pcr}")?;
        }
        if let Some(template) = &self.template {
            write!(f, " template={template}")?;
        }
        Ok(())
    }
}
