//! The binding `signed`: the vendor's key in the initramfs, and the signature
//! of the image's policy on its boot partition.

use std::fs;
use std::path::{Path, PathBuf};

use pcr_measure::key::{KeyError, PublicKey, SigningKey};
use pcr_measure::manifest::Manifest;
use pcr_measure::policy::Rollback;
use pcr_measure::signed_policy::{SignatureFile, SignedPolicyError};

use crate::artifacts::KeyDir;
use crate::keys::{self, KeysError, Role};
use crate::recipe::{Binding, Recipe};

/// Why an image has no signed policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The own pair.
    #[error(transparent)]
    Own(#[from] KeysError),
    /// A key file cannot be read.
    #[error("cannot read the policy key {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key file is none.
    #[error("the policy key {path} cannot be used: {source}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// Signing failed.
    #[error("cannot sign the image's policy: {0}")]
    Sign(#[from] SignedPolicyError),
}

/// The vendor's key and the image's version.
#[derive(Debug)]
pub struct SignedBinding {
    /// `TPMT_PUBLIC` of the key.
    public: Vec<u8>,
    /// The private half, where image-builder has it.
    signing: Option<SigningKey>,
    rollback: Rollback,
}

impl SignedBinding {
    /// What the recipe asks for; `None` for the binding `pcr`. The key is the
    /// recipe's public one, or image-builder's own pair in `keys`.
    ///
    /// # Errors
    /// [`PolicyError`] when a key file is missing or none.
    pub fn of(recipe: &Recipe, keys: &KeyDir) -> Result<Option<Self>, PolicyError> {
        let Binding::Signed(signed) = &recipe.tpm.binding else { return Ok(None) };
        let rollback = Rollback { counter: signed.counter.handle(), version: signed.rollback };
        let (path, signing) = match &signed.policy_key {
            Some(path) => (path.clone(), None),
            None => (keys.policy_key(), Some(keys::signing(keys, Role::Policy)?)),
        };
        let public = match &signing {
            Some(key) => key.public().to_tpm_public(),
            None => PublicKey::parse(&read(&path)?).and_then(|key| key.to_tpm_public()),
        };
        Ok(Some(Self { public: public.map_err(|e| unusable(&path, e))?, signing, rollback }))
    }

    /// What initramfs-unseal is told under `signed` in its configuration.
    pub fn config(&self) -> serde_json::Value {
        serde_json::json!({
            "policy_key": hex::encode(&self.public),
            "counter": format!("{:#010x}", self.rollback.counter),
            "rollback": self.rollback.version,
        })
    }

    /// The file of signed policies with one entry, for the image of this
    /// manifest; `None` where the private key is the vendor's own business.
    ///
    /// # Errors
    /// [`PolicyError::Sign`].
    pub fn sign(&self, manifest: &Manifest) -> Result<Option<String>, PolicyError> {
        let Some(key) = &self.signing else { return Ok(None) };
        let mut file = SignatureFile::new();
        file.sign_with(key, manifest.seal(), &manifest.sealed_values(), Some(&self.rollback))?;
        Ok(Some(file.to_json()?))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, PolicyError> {
    fs::read(path).map_err(|source| PolicyError::Read { path: path.to_owned(), source })
}

fn unusable(path: &Path, source: KeyError) -> PolicyError {
    PolicyError::Key { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::ensure_policy_key;
    use pcr_measure::signed_policy::Verdict;
    use pcr_measure::signed_policy::policy_with;

    const RECIPE: &str = "name = \"a\"\nboard = \"rpi3\"\n[kernel]\ncommand_line = \"quiet\"\n\
                          [tpm]\nbinding = \"signed\"\nrollback = 7\n";

    #[test]
    fn an_image_is_signed_with_the_own_pair_for_its_version() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyDir::new(dir.path());
        let recipe = Recipe::parse(RECIPE, "r.toml").unwrap();
        let error = SignedBinding::of(&recipe, &keys).unwrap_err();
        assert!(matches!(error, PolicyError::Own(_)), "{error}");
        ensure_policy_key(&keys, false).unwrap();
        let binding = SignedBinding::of(&recipe, &keys).unwrap().unwrap();
        let config = binding.config();
        assert_eq!((&config["counter"], &config["rollback"]), (&"0x01806d74".into(), &7.into()));

        let manifest = Manifest::builder("a", "rpi3")
            .event(0, "U-Boot version", b"v".as_slice(), "")
            .seal(&[0, 15])
            .build()
            .unwrap();
        let text = binding.sign(&manifest).unwrap().unwrap();
        assert_eq!(binding.sign(&manifest).unwrap().unwrap(), text, "the same bytes each time");
        let file = SignatureFile::from_json(text.as_bytes()).unwrap();
        let key = SigningKey::from_pem(&fs::read(keys.policy_key()).unwrap()).unwrap();
        assert_eq!(config["policy_key"], hex::encode(key.public().to_tpm_public().unwrap()));
        let (seal, values) = (manifest.seal(), manifest.sealed_values());
        let policy = policy_with(seal, &values, Some(&binding.rollback)).unwrap();
        let verdict = file.verify_policy(key.public(), seal, policy).unwrap();
        assert_eq!(verdict, Verdict::Signed);
    }

    #[test]
    fn with_the_vendors_public_key_nothing_is_signed_here() {
        let dir = tempfile::tempdir().unwrap();
        let keys = KeyDir::new(dir.path().join("own"));
        fs::create_dir(keys.dir()).unwrap();
        ensure_policy_key(&keys, false).unwrap();
        let key = SigningKey::from_pem(&fs::read(keys.policy_key()).unwrap()).unwrap();
        let text = format!("{RECIPE}policy_key = \"vendor.pem\"\n");
        let path = dir.path().join("recipe.toml");
        fs::write(&path, text).unwrap();
        fs::write(dir.path().join("vendor.pem"), key.public().to_pem().unwrap()).unwrap();
        let recipe = Recipe::load(&path).unwrap();
        let none = KeyDir::new(dir.path().join("none"));
        let binding = SignedBinding::of(&recipe, &none).unwrap().unwrap();
        let public = hex::encode(key.public().to_tpm_public().unwrap());
        assert_eq!(binding.config()["policy_key"], public);
        let manifest =
            Manifest::builder("a", "b").event(0, "x", b"v".as_slice(), "").seal(&[0]).build();
        assert_eq!(binding.sign(&manifest.unwrap()).unwrap(), None);

        fs::copy(keys.policy_key(), dir.path().join("vendor.pem")).unwrap();
        let error = SignedBinding::of(&recipe, &none).unwrap_err().to_string();
        assert!(error.contains("private key where a public one"), "{error}");
    }
}
