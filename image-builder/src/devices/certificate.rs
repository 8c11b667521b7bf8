//! Endorsement key certificates: does a TPM's maker vouch for this key?
//!
//! The certificate ties the endorsement key to a maker (TCG EK Credential Profile 2.5, 3).
//! It does not tie a record to a TPM: whoever has seen certificate and public key can
//! write both into a record. That the board has the key shows only a credential that its
//! TPM opens (TPM2_ActivateCredential), which is attestation's business.

use std::fmt;

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::stack::Stack;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::{X509, X509NameRef, X509Ref, X509StoreContext};
use pcr_measure::key::PublicKey;
use pcr_measure::structures::TpmPublic;

use super::record::Record;

/// Why certificates of makers cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MakersError {
    /// Not certificates, or OpenSSL failed.
    #[error("these are no certificates (PEM): {0}")]
    OpenSsl(#[from] ErrorStack),
    /// No root among them.
    #[error("there is no self-signed certificate among them: a maker's root is needed")]
    NoRoot,
}

/// Makers of TPMs: roots that are trusted, and what they signed to sign with.
pub struct Makers {
    roots: X509Store,
    between: Vec<X509>,
}

impl fmt::Debug for Makers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Makers").field("between", &self.between.len()).finish_non_exhaustive()
    }
}

impl Makers {
    /// From certificates in PEM, in any order. A self-signed one is trusted as a root;
    /// others are not trusted, but may stand between.
    ///
    /// # Errors
    /// [`MakersError`].
    pub fn from_pem(texts: &[Vec<u8>]) -> Result<Self, MakersError> {
        let mut roots = X509StoreBuilder::new()?;
        let (mut between, mut any) = (Vec::new(), false);
        for text in texts {
            for certificate in X509::stack_from_pem(text)? {
                let own = certificate
                    .public_key()
                    .is_ok_and(|key| certificate.verify(&key).unwrap_or(false));
                if own {
                    any = true;
                    roots.add_cert(certificate)?;
                } else {
                    between.push(certificate);
                }
            }
        }
        if any { Ok(Self { roots: roots.build(), between }) } else { Err(MakersError::NoRoot) }
    }

    fn chain(&self) -> Result<Stack<X509>, ErrorStack> {
        let mut stack = Stack::new()?;
        for certificate in &self.between {
            stack.push(certificate.clone())?;
        }
        Ok(stack)
    }
}

/// What a certificate is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endorsement {
    /// The record has none.
    None,
    /// There is one, and nobody gave roots to hold it against.
    Unchecked,
    /// A root vouches for the key in the record.
    Good {
        /// The root's name.
        root: String,
    },
    /// It does not.
    Bad(String),
}

impl fmt::Display for Endorsement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no certificate"),
            Self::Unchecked => f.write_str("not checked"),
            Self::Good { root } => write!(f, "good: {root}"),
            Self::Bad(why) => write!(f, "BAD: {why}"),
        }
    }
}

/// Judges a record's certificate.
///
/// # Errors
/// If OpenSSL fails, which no content of the record causes.
pub fn judge(record: &Record, makers: Option<&Makers>) -> Result<Endorsement, ErrorStack> {
    let (Some(der), Some(public)) = (&record.ek_certificate, &record.ek_public) else {
        return Ok(Endorsement::None);
    };
    let bad = |why: &str| Ok(Endorsement::Bad(why.to_owned()));
    let Ok(certificate) = X509::from_der(der) else { return bad("it is no certificate") };
    let ours = TpmPublic::parse(public).ok().and_then(|public| PublicKey::from_tpm(&public).ok());
    let theirs = certificate
        .public_key()
        .and_then(|key| key.public_key_to_der())
        .ok()
        .and_then(|der| PublicKey::parse(&der).ok());
    let same = match (&ours, &theirs) {
        (Some(ours), Some(theirs)) => ours.to_pem().ok() == theirs.to_pem().ok(),
        _ => false,
    };
    if !same {
        return bad("it is of another key than the record's");
    }
    let Some(makers) = makers else { return Ok(Endorsement::Unchecked) };
    let (chain, mut context) = (makers.chain()?, X509StoreContext::new()?);
    context.init(&makers.roots, &certificate, &chain, |context| {
        if context.verify_cert()? {
            let root = context.chain().and_then(|chain| chain.iter().last().map(name));
            return Ok(Endorsement::Good { root: root.unwrap_or_default() });
        }
        Ok(Endorsement::Bad(context.error().error_string().to_owned()))
    })
}

/// Whose certificate it is: the common name, else the organisation.
fn name(certificate: &X509Ref) -> String {
    let entry = |name: &X509NameRef, nid| {
        let entry = name.entries_by_nid(nid).next()?;
        let text = entry.data().to_string().ok()?;
        Some(text.chars().filter(|c| !c.is_control()).take(128).collect())
    };
    let subject = certificate.subject_name();
    entry(subject, Nid::COMMONNAME)
        .or_else(|| entry(subject, Nid::ORGANIZATIONNAME))
        .unwrap_or_else(|| "a root without a name".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::{TestKey, bytes, record};
    use super::*;
    use openssl::asn1::Asn1Time;
    use openssl::bn::BigNum;
    use openssl::hash::MessageDigest;
    use openssl::pkey::{HasPublic, PKey, PKeyRef, Private};
    use openssl::x509::extension::{BasicConstraints, KeyUsage, SubjectAlternativeName};
    use openssl::x509::{X509Builder, X509Name, X509NameBuilder};

    struct Authority {
        pair: PKey<Private>,
        certificate: X509,
    }

    fn named(name: &str) -> X509Name {
        let mut builder = X509NameBuilder::new().unwrap();
        builder.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
        builder.build()
    }

    fn certificate<K: HasPublic>(
        subject: Option<&str>,
        key: &PKeyRef<K>,
        by: Option<&Authority>,
        pair: &PKey<Private>,
        days: (i64, i64),
    ) -> X509 {
        let mut builder = X509Builder::new().unwrap();
        builder.set_version(2).unwrap();
        let serial = BigNum::from_u32(7).unwrap().to_asn1_integer().unwrap();
        builder.set_serial_number(&serial).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let at = |days: i64| Asn1Time::from_unix(now.as_secs().cast_signed() + days * 86_400);
        builder.set_not_before(&at(days.0).unwrap()).unwrap();
        builder.set_not_after(&at(days.1).unwrap()).unwrap();
        builder.set_pubkey(key).unwrap();
        let own = subject.map(named);
        if let Some(own) = &own {
            builder.set_subject_name(own).unwrap();
            builder
                .append_extension(BasicConstraints::new().critical().ca().build().unwrap())
                .unwrap();
        } else {
            // A TPM's has an empty subject; who made the TPM stands in a critical
            // alternative name (TCG EK Credential Profile 2.5, 3.2.9).
            let context = builder.x509v3_context(None, None);
            let name = SubjectAlternativeName::new().critical().dns("tpm").build(&context).unwrap();
            builder.append_extension(name).unwrap();
            builder
                .append_extension(KeyUsage::new().critical().key_agreement().build().unwrap())
                .unwrap();
        }
        if let Some(issuer) = by.map(|by| by.certificate.subject_name()).or(own.as_deref()) {
            builder.set_issuer_name(issuer).unwrap();
        }
        builder.sign(by.map_or(pair, |by| &by.pair), MessageDigest::sha256()).unwrap();
        builder.build()
    }

    fn authority(name: &str, by: Option<&Authority>) -> Authority {
        let pair = TestKey::new().pair;
        let certificate = certificate(Some(name), &pair, by, &pair, (-1, 100));
        Authority { pair, certificate }
    }

    fn with_certificate(ek: &TestKey, certificate: &X509) -> Record {
        let mut value = record(ek, "1", "u-1");
        value["tpm"]["ek"]["certificate"] = hex::encode(certificate.to_der().unwrap()).into();
        Record::parse(&bytes(&value)).unwrap()
    }

    fn makers(certificates: &[&X509]) -> Makers {
        let pem: Vec<_> = certificates.iter().map(|c| c.to_pem().unwrap()).collect();
        Makers::from_pem(&pem).unwrap()
    }

    #[test]
    fn a_chain_to_a_root_is_good_and_names_it() {
        let root = authority("A Maker's Root", None);
        let between = authority("Its Plant", Some(&root));
        let ek = TestKey::new();
        let own = certificate(None, &ek.pair, Some(&between), &ek.pair, (-1, 100));
        let record = with_certificate(&ek, &own);
        let both = makers(&[&between.certificate, &root.certificate]);
        let good = Endorsement::Good { root: "A Maker's Root".to_owned() };
        assert_eq!(judge(&record, Some(&both)).unwrap(), good);
        assert_eq!(judge(&record, None).unwrap(), Endorsement::Unchecked);
        // What stands between has to be there.
        let lonely = makers(&[&root.certificate]);
        assert!(matches!(judge(&record, Some(&lonely)).unwrap(), Endorsement::Bad(_)));
        // And it is no root by itself.
        assert!(matches!(
            Makers::from_pem(&[between.certificate.to_pem().unwrap()]),
            Err(MakersError::NoRoot)
        ));
    }

    #[test]
    fn another_makers_certificate_is_bad() {
        let (root, other) = (authority("Root", None), authority("Root", None));
        let ek = TestKey::new();
        let own = certificate(None, &ek.pair, Some(&other), &ek.pair, (-1, 100));
        let verdict = judge(&with_certificate(&ek, &own), Some(&makers(&[&root.certificate])));
        assert!(matches!(verdict.unwrap(), Endorsement::Bad(_)));
    }

    #[test]
    fn a_certificate_of_another_key_is_bad_even_without_roots() {
        let root = authority("Root", None);
        let (ek, other) = (TestKey::new(), TestKey::new());
        let own = certificate(None, &other.pair, Some(&root), &other.pair, (-1, 100));
        let record = with_certificate(&ek, &own);
        let bad = Endorsement::Bad("it is of another key than the record's".to_owned());
        assert_eq!(judge(&record, None).unwrap(), bad);
        assert_eq!(judge(&record, Some(&makers(&[&root.certificate]))).unwrap(), bad);
    }

    #[test]
    fn an_expired_certificate_is_bad_and_says_so() {
        let root = authority("Root", None);
        let ek = TestKey::new();
        let own = certificate(None, &ek.pair, Some(&root), &ek.pair, (-10, -1));
        let verdict = judge(&with_certificate(&ek, &own), Some(&makers(&[&root.certificate])));
        let Endorsement::Bad(why) = verdict.unwrap() else { panic!("taken") };
        assert!(why.contains("expired"), "{why}");
    }

    #[test]
    fn nonsense_is_bad() {
        let ek = TestKey::new();
        let mut value = record(&ek, "1", "u-1");
        value["tpm"]["ek"]["certificate"] = "3082ffff".into();
        let record = Record::parse(&bytes(&value)).unwrap();
        assert_eq!(judge(&record, None).unwrap(), Endorsement::Bad("it is no certificate".into()));
        assert!(Makers::from_pem(&[b"x".to_vec()]).is_err());
    }
}
