//! Encryption to an age recipient: age v1 (C2SP, age.md), X25519 alone, ASCII
//! armour, one short secret.
//!
//! What it never does: decrypt, or take a passphrase, another kind of recipient or
//! more than one. What it trusts: that the recipient is the operator's; it comes
//! out of the measured configuration.
//!
//! Every intermediate key is wiped. What the primitives leave on the stack (HMAC
//! 0.12 does not wipe its state) lives no longer than the initramfs' program.

mod recipient;

pub use recipient::{Recipient, RecipientError};

use crate::secret::{Secret, hmac_sha256};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use chacha20poly1305::{AeadInPlace as _, ChaCha20Poly1305, KeyInit as _, Nonce};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// The first line of every file (age.md, "Header").
const VERSION: &str = "age-encryption.org/v1\n";
/// HKDF's info for an X25519 stanza (age.md, "The X25519 recipient type").
const WRAP: &[u8] = b"age-encryption.org/v1/X25519";
/// Length of the file key and of the payload's nonce in bytes (age.md, "File key",
/// "Payload").
const HALF: usize = 16;
/// Length of a Poly1305 tag in bytes.
const TAG: usize = 16;
/// The most that is encrypted, in bytes: one chunk of the payload (age.md).
pub const MAX_LEN: usize = 64 * 1024;
/// Columns of the armour (age.md, "ASCII armor"; RFC 7468, 2).
const COLUMNS: usize = 64;

/// The random numbers of one file. Used for a second one, they would give the
/// first one away.
#[derive(Debug)]
pub struct Ephemeral {
    /// The secret half of the sender's X25519 key.
    pub share: Secret,
    /// The file key and the payload's nonce, 16 bytes each.
    pub file: Secret,
}

/// Why nothing was encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncryptError {
    /// More than a chunk.
    #[error("{0} bytes are more than the {MAX_LEN} that are encrypted here")]
    TooLong(usize),
    /// The cipher refused.
    #[error("ChaCha20-Poly1305 refused to encrypt")]
    Cipher,
}

/// Encrypts `plain` to `recipient`, as an armoured age file. A pure function of
/// its arguments.
///
/// # Errors
/// [`EncryptError::TooLong`].
pub fn encrypt(
    recipient: &Recipient,
    plain: &[u8],
    random: Ephemeral,
) -> Result<String, EncryptError> {
    if plain.len() > MAX_LEN {
        return Err(EncryptError::TooLong(plain.len()));
    }
    let (file_key, nonce) = random.file.expose().split_at(HALF);
    let mut file = header(recipient, file_key, &random.share)?.into_bytes();
    file.extend_from_slice(nonce);
    let key = hkdf(nonce, file_key, b"payload");
    // STREAM: eleven bytes of counter, here zero, and 1 for the last chunk.
    let mut last = Nonce::default();
    if let Some(flag) = last.last_mut() {
        *flag = 1;
    }
    file.extend_from_slice(&seal(&key, &last, plain)?);
    Ok(armor(&file))
}

/// The header: one stanza, and the MAC over all of it.
fn header(recipient: &Recipient, file_key: &[u8], share: &Secret) -> Result<String, EncryptError> {
    let mut bytes = Zeroizing::new([0; 32]);
    bytes.copy_from_slice(share.expose());
    let ours = StaticSecret::from(*bytes);
    let public = PublicKey::from(&ours);
    let theirs = PublicKey::from(*recipient.as_bytes());
    let shared = ours.diffie_hellman(&theirs);
    let salt = [public.as_bytes().as_slice(), theirs.as_bytes()].concat();
    let wrap = hkdf(&salt, shared.as_bytes(), WRAP);
    // A key for one use: the nonce is zero (age.md).
    let body = seal(&wrap, &Nonce::default(), file_key)?;
    let (share, body) = (STANDARD_NO_PAD.encode(public.as_bytes()), STANDARD_NO_PAD.encode(body));
    let mut header = format!("{VERSION}-> X25519 {share}\n{body}\n---");
    let mac = hmac_sha256(hkdf(b"", file_key, b"header").as_slice(), &[header.as_bytes()]);
    header.push(' ');
    header.push_str(&STANDARD_NO_PAD.encode(mac));
    header.push('\n');
    Ok(header)
}

/// HKDF-SHA256 (RFC 5869) with an output of one block, 32 bytes: all that age asks
/// for.
fn hkdf(salt: &[u8], secret: &[u8], info: &[u8]) -> Zeroizing<[u8; 32]> {
    let extracted = Zeroizing::new(hmac_sha256(salt, &[secret]));
    Zeroizing::new(hmac_sha256(extracted.as_slice(), &[info, &[1]]))
}

/// ChaCha20-Poly1305: the ciphertext and its tag.
fn seal(key: &[u8; 32], nonce: &Nonce, plain: &[u8]) -> Result<Vec<u8>, EncryptError> {
    // Reserved whole: growing would leave the plain text behind.
    let mut text = Vec::with_capacity(plain.len() + TAG);
    text.extend_from_slice(plain);
    let cipher = ChaCha20Poly1305::new(key.into());
    match cipher.encrypt_in_place_detached(nonce, b"", &mut text) {
        Ok(tag) => text.extend_from_slice(&tag),
        Err(_) => {
            zeroize::Zeroize::zeroize(&mut text);
            return Err(EncryptError::Cipher);
        }
    }
    Ok(text)
}

/// The ASCII armour (age.md; RFC 7468's strict form).
fn armor(file: &[u8]) -> String {
    let encoded = STANDARD.encode(file);
    let mut text = String::from("-----BEGIN AGE ENCRYPTED FILE-----\n");
    for (i, letter) in encoded.chars().enumerate() {
        if i > 0 && i % COLUMNS == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text.push_str("\n-----END AGE ENCRYPTED FILE-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::age::x25519::Identity;
    use std::io::Read as _;

    fn random(seed: u8) -> Ephemeral {
        let draw = |n: u8| Secret::from_slice(&hmac_sha256(&[seed], &[&[n]])).unwrap();
        Ephemeral { share: draw(0), file: draw(1) }
    }

    fn pair() -> (Identity, Recipient) {
        let identity = Identity::generate();
        let recipient = Recipient::parse(&identity.to_public().to_string()).unwrap();
        (identity, recipient)
    }

    /// What the `age` crate gets out of an armoured file.
    fn decrypted(identity: &Identity, file: &str) -> Option<Vec<u8>> {
        let reader = ::age::armor::ArmoredReader::new(file.as_bytes());
        let decryptor = ::age::Decryptor::new(reader).ok()?;
        let mut plain = Vec::new();
        let keys = std::iter::once(identity as &dyn ::age::Identity);
        decryptor.decrypt(keys).ok()?.read_to_end(&mut plain).ok()?;
        Some(plain)
    }

    #[test]
    fn the_age_crate_decrypts_what_is_encrypted_here() {
        for len in [0, 1, 47, 48, 71, 4096, MAX_LEN] {
            let (identity, recipient) = pair();
            let plain: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let file = encrypt(&recipient, &plain, random(7)).unwrap();
            assert_eq!(decrypted(&identity, &file).as_deref(), Some(&*plain), "{len} bytes");
            assert!(file.lines().all(|line| line.len() <= COLUMNS), "{len} bytes");
        }
    }

    #[test]
    fn nobody_else_decrypts_it_and_a_changed_file_is_refused() {
        let (identity, recipient) = pair();
        let file = encrypt(&recipient, b"secret", random(1)).unwrap();
        assert!(decrypted(&identity, &file).is_some(), "premise");
        assert!(decrypted(&Identity::generate(), &file).is_none());
        let body: Vec<u8> = STANDARD
            .decode(file.lines().filter(|l| !l.starts_with('-')).collect::<String>())
            .unwrap();
        assert!(decrypted(&identity, &armor(&body)).is_some(), "premise");
        for at in 0..body.len() {
            let mut changed = body.clone();
            changed[at] ^= 1;
            assert!(decrypted(&identity, &armor(&changed)).is_none(), "byte {at}");
        }
    }

    #[test]
    fn other_random_numbers_give_another_file() {
        let (_, recipient) = pair();
        let file = |seed| encrypt(&recipient, b"secret", random(seed)).unwrap();
        assert_eq!(file(1), file(1));
        let (one, two) = (file(1), file(2));
        let same = one.lines().filter(|line| two.contains(line)).count();
        assert_eq!(same, 2, "the armour's two lines alone: {one}{two}");
    }

    #[test]
    fn hkdf_is_rfc_5869_case_1() {
        let salt: Vec<u8> = (0..=12).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        assert_eq!(
            hex::encode(hkdf(&salt, &[0x0b; 22], &info).as_slice()),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
        );
    }

    #[test]
    fn more_than_a_chunk_is_refused() {
        let (_, recipient) = pair();
        let error = encrypt(&recipient, &vec![0; MAX_LEN + 1], random(1)).unwrap_err();
        assert_eq!(error, EncryptError::TooLong(MAX_LEN + 1));
    }
}
