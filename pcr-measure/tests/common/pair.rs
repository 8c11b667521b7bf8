//! Key pairs of a test's own, in a directory.

use std::path::{Path, PathBuf};

use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use pcr_measure::key::SigningKey;

/// A pair, and the files that hold it: the stem with `.key` and with `.pem`.
pub(crate) struct Pair {
    pub(crate) key: SigningKey,
    pub(crate) stem: PathBuf,
}

impl Pair {
    /// RSA of 2048 bits.
    pub(crate) fn rsa(dir: &Path, name: &str) -> Self {
        Self::new(PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(), dir, name)
    }

    /// ECC on P-256.
    pub(crate) fn ec(dir: &Path, name: &str) -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        Self::new(PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap(), dir, name)
    }

    fn new(key: PKey<Private>, dir: &Path, name: &str) -> Self {
        let stem = dir.join(name);
        let pem = key.private_key_to_pem_pkcs8().unwrap();
        std::fs::write(stem.with_extension("key"), &pem).unwrap();
        std::fs::write(stem.with_extension("pem"), key.public_key_to_pem().unwrap()).unwrap();
        Self { key: SigningKey::from_pem(&pem).unwrap(), stem }
    }
}
