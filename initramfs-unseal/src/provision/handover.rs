//! What a provisioned board hands over to its operator: the recovery key on the
//! consoles, the device record on the boot partition.

use super::{ProvisionError, Provisioning};
use crate::age::Ephemeral;
use crate::board::{self, Board};
use crate::boot_partition::BootPartition;
use crate::luks::Volume;
use crate::qr;
use crate::record::{self, Created, DeviceRecord, EndorsementKey, TpmRecord};
use crate::recovery::RecoveryKey;
use crate::token::Token;
use crate::tpm::TpmError;
use std::path::Path;
use std::time::SystemTime;
use zeroize::Zeroizing;

impl Provisioning<'_> {
    /// Shows the recovery key, in letters and as a QR code.
    pub(super) fn show(&self, key: &RecoveryKey) {
        let mut text = Zeroizing::new(String::with_capacity(256));
        text.push_str("initramfs-unseal: recovery key: ");
        text.push_str(key.expose());
        text.push_str("\ninitramfs-unseal: write the recovery key down: it is shown this once\n");
        self.consoles.write(&text);
        match qr::rows(key, self.config.qr) {
            // Line by line: each has a patience of its own at a slow console.
            Ok(rows) => rows.iter().for_each(|row| self.consoles.write(row)),
            Err(why) => self.consoles.say(&format!("the recovery key has no QR code: {why}")),
        }
    }

    /// The record of this board, without its recovery key. Makes the attestation
    /// key where there is none yet.
    pub(super) fn describe(
        &mut self,
        volume: &mut Volume,
        token: &Token,
    ) -> Result<DeviceRecord, ProvisionError> {
        let sysroot = Path::new("/");
        let ek = self.tpm.endorsement_key();
        let ek = self.or_without("endorsement key", ek).map(|key| {
            let certificate = self.tpm.endorsement_certificate();
            EndorsementKey {
                key,
                certificate: self
                    .or_without("certificate of the endorsement key", certificate)
                    .flatten(),
            }
        });
        let ak = self.tpm.attestation_key();
        let ak = self.or_without("attestation key", ak);
        let created = Created::at(board::boot_id(sysroot), SystemTime::now());
        let tpm = TpmRecord::new(token, ek, ak);
        let uuid = volume.uuid()?;
        Ok(DeviceRecord::new(created, self.manifest, Board::read(sysroot), tpm, uuid))
    }

    /// What the TPM does not give costs the record a field, not the board its
    /// provisioning: nothing on the board needs it.
    fn or_without<T>(&self, which: &str, what: Result<T, TpmError>) -> Option<T> {
        what.inspect_err(|why| {
            self.consoles.say(&format!("the device record names no {which}: {why}"));
        })
        .ok()
    }

    /// Writes the record to the boot partition, with the recovery key in it if there
    /// is somebody to encrypt it to.
    pub(super) fn hand_over(
        &mut self,
        mut record: DeviceRecord,
        key: &RecoveryKey,
    ) -> Result<(), ProvisionError> {
        if let Some(recipient) = &self.config.recipient {
            let random = Ephemeral {
                share: self.random("msec-boot age share 1")?,
                file: self.random("msec-boot age file 1")?,
            };
            record.escrow(recipient, key, random)?;
        }
        let json = record.to_json().map_err(std::io::Error::from);
        let device = self.config.partition(self.config.boot_partition);
        let write = |json: Vec<u8>| {
            let partition = BootPartition::for_writing(&device)?;
            partition.write(record::NAME, &json)?;
            partition.close()
        };
        json.and_then(write)
            .map_err(|cause| ProvisionError::Record { device: device.clone(), cause })?;
        self.consoles.say(&format!(
            "device record: {} on {}, {}",
            record::NAME,
            device.display(),
            match record.recipient {
                Some(_) => "with the recovery key, encrypted to the operator",
                None => "without the recovery key: the image names no recipient",
            }
        ));
        Ok(())
    }
}
