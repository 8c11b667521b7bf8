//! Trusted applications: which of those that OP-TEE's sources bring.

use serde::{Deserialize, Serialize};

use super::ValueError;

/// A trusted application that OP-TEE's sources bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustedApp {
    /// A PKCS#11 token: keys that are made and used in the secure world.
    Pkcs11,
}

impl TrustedApp {
    const ALL: [Self; 1] = [Self::Pkcs11];

    /// Its directory below `ta/` in OP-TEE's sources.
    #[must_use]
    pub fn directory(self) -> &'static str {
        match self {
            Self::Pkcs11 => "pkcs11",
        }
    }

    /// By which a session with it is asked for.
    #[must_use]
    pub fn uuid(self) -> &'static str {
        match self {
            // OP-TEE, ta/pkcs11/include/pkcs11_ta.h: PKCS11_TA_UUID.
            Self::Pkcs11 => "fd02c9da-306c-48c7-a49c-bbd827ae86ee",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of trusted applications; in a recipe a list of their names, none by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<TrustedApp>", into = "Vec<TrustedApp>")]
pub struct TrustedApps(u8);

impl TrustedApps {
    /// Its members, in the order of [`TrustedApp`].
    pub fn iter(self) -> impl Iterator<Item = TrustedApp> {
        TrustedApp::ALL.into_iter().filter(move |app| self.0 & app.bit() != 0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl TryFrom<Vec<TrustedApp>> for TrustedApps {
    type Error = ValueError;

    fn try_from(list: Vec<TrustedApp>) -> Result<Self, ValueError> {
        list.into_iter().try_fold(Self::default(), |set, app| match set.0 & app.bit() {
            0 => Ok(Self(set.0 | app.bit())),
            _ => Err(ValueError(format!("`{}` is named twice", app.directory()))),
        })
    }
}

impl From<TrustedApps> for Vec<TrustedApp> {
    fn from(set: TrustedApps) -> Self {
        set.iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_what_was_put_into_it() {
        assert!(TrustedApps::default().is_empty());
        for list in [vec![], TrustedApp::ALL.to_vec()] {
            let set = TrustedApps::try_from(list.clone()).unwrap();
            assert_eq!((Vec::from(set), set.is_empty()), (list.clone(), list.is_empty()));
        }
        let twice = TrustedApps::try_from(vec![TrustedApp::Pkcs11; 2]);
        assert_eq!(twice.unwrap_err().to_string(), "`pkcs11` is named twice");
    }
}
