//! A vendor, its images, and a board that it provisioned with the binding
//! `signed`, with Debian's tpm2-tools as the attacker who keeps to no order but
//! the TPM's.

use super::SoftTpm;
use initramfs_unseal::authority::{Approved, Authority, PolicyKey, SignedError};
use initramfs_unseal::guard::Guard;
use initramfs_unseal::sealed::Sealed;
use initramfs_unseal::secret::Secret;
use initramfs_unseal::tpm::{Sealing, Tpm, TpmError, Unsealing};
use initramfs_unseal::volume::{self, Fingerprint};
use pcr_measure::key::SigningKey;
use pcr_measure::pcr::{PcrIndex, PcrSelection};
use pcr_measure::signed_policy::SignatureFile;
use std::process::Command;

pub(crate) const INDEX: u32 = 0x0180_6d73;
pub(crate) const SPARE: u32 = 0x0180_6d75;
pub(crate) const COUNTER: u32 = 0x0180_6d74;
pub(crate) const SRK: u32 = 0x8100_0001;
pub(crate) const PCRS: &str = "0,1,8,9,15";

pub(crate) const RSA: [&str; 4] = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
pub(crate) const ECC: [&str; 4] = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

pub(crate) fn key(kind: [&str; 4]) -> SigningKey {
    let out = Command::new("openssl").arg("genpkey").args(kind).output().expect("openssl is there");
    assert!(out.status.success(), "{out:?}");
    SigningKey::from_pem(&out.stdout).unwrap()
}

pub(crate) fn pcr(number: u32) -> PcrIndex {
    PcrIndex::new(number).unwrap()
}

pub(crate) fn pcrs() -> PcrSelection {
    PCRS.parse().unwrap()
}

pub(crate) fn authority(key: &SigningKey, version: u64) -> Authority {
    let policy_key = PolicyKey::parse(&key.public().to_tpm_public().unwrap()).unwrap();
    Authority { policy_key, counter: COUNTER, version }
}

/// A file with one entry: this boot, as the TPM has it now, up to `version`.
pub(crate) fn signed(
    tpm: &mut Tpm,
    key: &SigningKey,
    pcrs: &PcrSelection,
    version: u64,
) -> SignatureFile {
    let mut file = SignatureFile::new();
    let rollback = authority(key, version).rollback();
    file.sign_with(key, pcrs, &tpm.pcrs(pcrs).unwrap(), Some(&rollback)).unwrap();
    file
}

/// What a boot of this image measures.
pub(crate) fn measure(tpm: &mut Tpm, image: &str) {
    for number in [0, 1, 8, 9] {
        tpm.extend(pcr(number), &volume::words(image)).unwrap();
    }
}

/// A board of the vendor's.
pub(crate) struct Board {
    pub(crate) soft: SoftTpm,
    pub(crate) key: SigningKey,
    /// Of the image `old`, version 1.
    pub(crate) authority: Authority,
    pub(crate) file: String,
    pub(crate) srk_name: Vec<u8>,
    pub(crate) sealed: Sealed,
}

impl Board {
    /// A board that was provisioned by the image `old`, and runs it.
    pub(crate) fn sealed(kind: [&str; 4]) -> Self {
        let (soft, key) = (SoftTpm::start(), key(kind));
        let mut tpm = soft.connect();
        measure(&mut tpm, "old");
        let authority = authority(&key, 1);
        let (_, value) = tpm.ensure_counter(&authority.rollback()).unwrap();
        assert_eq!(value, 1, "the first counter of a new TPM begins at 1");
        let srk_name = tpm.ensure_srk(SRK).unwrap();
        let sealed = Sealed {
            secret: Secret::from_slice(&std::array::from_fn::<u8, 32, _>(|i| 0xa0 ^ i as u8))
                .unwrap(),
            fingerprint: Fingerprint([0x5a; 32]),
        };
        let guard = authority.guard().unwrap();
        let what = Sealing { nv_index: INDEX, srk: SRK, guard: &guard, pin: None };
        tpm.seal(what, &srk_name, &sealed).unwrap();
        let file = signed(&mut tpm, &key, &pcrs(), 1).to_json().unwrap();
        drop(tpm);
        Self { soft, key, authority, file, srk_name, sealed }
    }

    pub(crate) fn what<'a>(
        &'a self,
        pcrs: &'a PcrSelection,
        guard: &'a Guard,
        lock: bool,
    ) -> Unsealing<'a> {
        let (srk_name, pin) = (self.srk_name.as_slice(), None);
        Unsealing { srk: SRK, srk_name, pcrs, guard, pin, nv_index: INDEX, lock }
    }

    pub(crate) fn read(
        &self,
        tpm: &mut Tpm,
        authority: &Authority,
        file: &str,
        lock: bool,
    ) -> Result<Sealed, SignedError> {
        let index = tpm.index(INDEX)?.ok_or(TpmError::IndexMissing(INDEX))?;
        let guard = authority.guard().unwrap();
        let file = || Ok(vec![file.as_bytes().to_vec()]);
        let pcrs = pcrs();
        let what = self.what(&pcrs, &guard, lock);
        Ok(tpm.unseal_signed(&index, what, authority, None, file)?.0)
    }

    /// As a boot does it, with what the boot before has kept.
    pub(crate) fn unseal(
        &self,
        tpm: &mut Tpm,
        approved: Option<&Approved>,
        file: &str,
    ) -> Result<(Sealed, Option<Approved>), SignedError> {
        let guard = self.authority.guard().unwrap();
        let index = tpm.index_of(INDEX, &guard)?.ok_or(TpmError::IndexMissing(INDEX))?;
        let (pcrs, file) = (pcrs(), || Ok(vec![file.as_bytes().to_vec()]));
        let what = self.what(&pcrs, &guard, true);
        tpm.unseal_signed(&index, what, &self.authority, approved, file)
    }

    pub(crate) fn opens(&self, tpm: &mut Tpm, authority: &Authority, file: &str) -> bool {
        match self.read(tpm, authority, file, false) {
            Ok(sealed) => {
                assert_eq!(sealed.secret.expose(), self.sealed.secret.expose());
                assert_eq!(sealed.fingerprint, self.sealed.fingerprint);
                true
            }
            Err(_) => false,
        }
    }

    /// Why it does not open.
    pub(crate) fn refusal(&self, tpm: &mut Tpm, authority: &Authority, file: &str) -> SignedError {
        self.read(tpm, authority, file, false).unwrap_err()
    }

    /// All of it with tpm2-tools: whether the secret came out, and the tool that
    /// did not work.
    pub(crate) fn by_tools(&self, file: &str, version: u64) -> Result<(), String> {
        let file = SignatureFile::from_json(file.as_bytes()).unwrap();
        let entry = file.entries().next().unwrap();
        let dir = self.soft.dir();
        let area = self.authority.policy_key.public();
        let sized = [&(area.len() as u16).to_be_bytes(), area].concat();
        for (name, bytes) in [
            ("area", sized.as_slice()),
            ("name", self.authority.policy_key.name()),
            ("pol", entry.policy.as_bytes()),
            ("sig", &entry.signature),
            ("operand", &version.to_be_bytes()),
        ] {
            std::fs::write(dir.join(name), bytes).unwrap();
        }
        let scheme = if self.authority.policy_key.is_rsa() { "rsassa" } else { "ecdsa" };
        let (index, counter) = (format!("{INDEX:#x}"), format!("{COUNTER:#x}"));
        let lines = [
            "tpm2_loadexternal -Q -C o -u area -c key.ctx".to_owned(),
            format!("tpm2_verifysignature -Q -c key.ctx -g sha256 -f {scheme} -m pol -s sig -t t"),
            "tpm2_startauthsession -Q --policy-session -S s".to_owned(),
            format!("tpm2_policypcr -Q -S s -l sha256:{PCRS}"),
            format!("tpm2_policynv -Q -S s -C {counter} -i operand {counter} ule"),
            "tpm2_policyauthorize -Q -S s -i pol -n name -t t".to_owned(),
            "tpm2_policypcr -Q -S s -l sha256:15".to_owned(),
            format!("tpm2_nvread {index} -P session:s -o out"),
        ];
        let failed = lines.iter().find_map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let ran = self.soft.tool(words[0], &words[1..]);
            (!ran.status.success()).then(|| words[0].to_owned())
        });
        self.soft.tool("tpm2_flushcontext", &["s"]);
        self.soft.tool("tpm2_flushcontext", &["-t"]);
        failed.map_or(Ok(()), Err)
    }
}
