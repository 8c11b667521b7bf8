//! Templates: which fields a record has, and in which order.

use std::fmt;

/// One field of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// `d`: a digest of 20 bytes, SHA-1 or MD5.
    Digest,
    /// `n`: the file's name, of 255 bytes at most.
    Name,
    /// `d-ng`: a digest with the name of its algorithm.
    DigestNg,
    /// `d-ngv2`: the same, with what was hashed: the file, or its fs-verity digest.
    DigestNgv2,
    /// `n-ng`: the file's name.
    NameNg,
    /// `sig`: the file's signature (`security.ima`, or fs-verity's).
    Signature,
    /// `d-modsig`: the digest without the appended signature.
    ModsigDigest,
    /// `modsig`: the appended signature.
    Modsig,
    /// `buf`: the buffer itself.
    Buffer,
    /// `evmsig`: EVM's portable signature.
    EvmSignature,
    /// `iuid`: the file's owner.
    Uid,
    /// `igid`: its group.
    Gid,
    /// `imode`: its mode.
    Mode,
    /// `xattrnames`: names of the attributes that EVM guards.
    XattrNames,
    /// `xattrlengths`: their lengths.
    XattrLengths,
    /// `xattrvalues`: their values.
    XattrValues,
}

impl Field {
    /// All of them, with their names.
    const NAMES: [(Self, &'static str); 16] = [
        (Self::Digest, "d"),
        (Self::Name, "n"),
        (Self::DigestNg, "d-ng"),
        (Self::DigestNgv2, "d-ngv2"),
        (Self::NameNg, "n-ng"),
        (Self::Signature, "sig"),
        (Self::ModsigDigest, "d-modsig"),
        (Self::Modsig, "modsig"),
        (Self::Buffer, "buf"),
        (Self::EvmSignature, "evmsig"),
        (Self::Uid, "iuid"),
        (Self::Gid, "igid"),
        (Self::Mode, "imode"),
        (Self::XattrNames, "xattrnames"),
        (Self::XattrLengths, "xattrlengths"),
        (Self::XattrValues, "xattrvalues"),
    ];

    /// Its name in a template's format.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(field, _)| *field == self).map_or("", |(_, name)| name)
    }

    fn of(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, its)| *its == name).map(|(field, _)| *field)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A template that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// Neither a name nor a format of the kernel's.
    #[error("template `{0}` is not known")]
    Unknown(String),
    /// Two fields of one kind, or more than a template may have.
    #[error("template `{0}` has too many fields")]
    Fields(String),
}

/// Most fields of a template: `TEMPLATE_NUM_FIELDS_MAX` is 15 in the kernel.
const MAX_FIELDS: usize = 15;
/// Longest name of a template or format. The kernel's longest has 68 letters.
pub(super) const MAX_NAME: u32 = 256;

/// The kernel's own templates (`builtin_templates`).
const BUILTIN: [(&str, &[Field]); 7] = [
    (Template::IMA, &[Field::Digest, Field::Name]),
    ("ima-ng", &[Field::DigestNg, Field::NameNg]),
    ("ima-sig", &[Field::DigestNg, Field::NameNg, Field::Signature]),
    ("ima-ngv2", &[Field::DigestNgv2, Field::NameNg]),
    ("ima-sigv2", &[Field::DigestNgv2, Field::NameNg, Field::Signature]),
    ("ima-buf", &[Field::DigestNg, Field::NameNg, Field::Buffer]),
    (
        "ima-modsig",
        &[Field::DigestNg, Field::NameNg, Field::Signature, Field::ModsigDigest, Field::Modsig],
    ),
];

/// The fields of `evm-sig`, which has more than the others.
const EVM_SIG: (&str, &[Field]) = (
    "evm-sig",
    &[
        Field::DigestNg,
        Field::NameNg,
        Field::EvmSignature,
        Field::XattrNames,
        Field::XattrLengths,
        Field::XattrValues,
        Field::Uid,
        Field::Gid,
        Field::Mode,
    ],
);

/// A template: a name of the kernel's, or a format of somebody's own (`ima_template_fmt=`),
/// which stands for its name in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    name: String,
    fields: Vec<Field>,
}

impl Template {
    /// The oldest template, whose records are written in another way.
    pub const IMA: &'static str = "ima";

    /// The template of this name or format.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn new(name: &str) -> Result<Self, TemplateError> {
        let shown = || pcr_measure::text::printable(name);
        let builtin = BUILTIN.into_iter().chain([EVM_SIG]).find(|(its, _)| *its == name);
        let fields = match builtin {
            Some((_, fields)) => fields.to_vec(),
            None => {
                // One more than may be, and no more.
                let fields: Option<Vec<_>> =
                    name.split('|').take(MAX_FIELDS + 1).map(Field::of).collect();
                fields.ok_or_else(|| TemplateError::Unknown(shown()))?
            }
        };
        let doubled = fields
            .iter()
            .enumerate()
            .any(|(at, field)| fields.iter().take(at).any(|before| before == field));
        if doubled || fields.len() > MAX_FIELDS {
            return Err(TemplateError::Fields(shown()));
        }
        Ok(Self { name: name.to_owned(), fields })
    }

    /// Its name, as it stands in a list.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its fields, in order.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Whether it is the oldest one.
    #[must_use]
    pub fn is_ima(&self) -> bool {
        self.name == Self::IMA
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_formats_say_which_fields() {
        let fields = |name: &str| Template::new(name).unwrap().fields().to_vec();
        assert_eq!(fields("ima"), [Field::Digest, Field::Name]);
        assert_eq!(fields("ima-sig"), fields("d-ng|n-ng|sig"));
        assert_eq!(fields("evm-sig").len(), 9);
        assert_eq!(fields("n-ng"), [Field::NameNg]);
        for (name, _) in BUILTIN {
            assert_eq!(Template::new(name).unwrap().name(), name);
        }
    }

    #[test]
    fn what_no_kernel_knows_is_named() {
        for name in ["", "ima-next", "d-ng|", "|n-ng", "d-ng|n-ng|new", "IMA", "d-ng n-ng"] {
            let error = Template::new(name).unwrap_err();
            assert_eq!(error.to_string(), format!("template `{name}` is not known"));
        }
        assert!(Template::new("d-ng|n-ng|d-ng").is_err());
        let long = vec!["sig"; 100_000].join("|");
        assert!(matches!(Template::new(&long), Err(TemplateError::Fields(_))));
    }
}
