//! One reading, several algorithms.

use std::io::{self, Read};

use ::digest::DynDigest;

use super::{Algorithm, Digest};

/// Bytes that are read at a time.
const PIECE: usize = 256 * 1024;

impl Algorithm {
    fn hasher(self) -> Box<dyn DynDigest> {
        match self {
            Self::Sha1 => Box::<sha1::Sha1>::default(),
            Self::Sha256 => Box::<sha2::Sha256>::default(),
            Self::Sha384 => Box::<sha2::Sha384>::default(),
            Self::Sha512 => Box::<sha2::Sha512>::default(),
            Self::Sm3_256 => Box::<sm3::Sm3>::default(),
            Self::Sha3_256 => Box::<sha3::Sha3_256>::default(),
            Self::Sha3_384 => Box::<sha3::Sha3_384>::default(),
            Self::Sha3_512 => Box::<sha3::Sha3_512>::default(),
        }
    }
}

/// Hashes all that `reader` gives, once, with each of `algorithms`. Memory does
/// not grow with it. The digests come in the order of the algorithms.
///
/// # Errors
/// Those of `reader`.
pub fn of_reader(algorithms: &[Algorithm], reader: &mut impl Read) -> io::Result<Vec<Digest>> {
    let mut hashers: Vec<_> = algorithms.iter().map(|a| (*a, a.hasher())).collect();
    let mut piece = vec![0; PIECE];
    loop {
        let read = match reader.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let bytes = piece.get(..read).unwrap_or(&piece);
        hashers.iter_mut().for_each(|(_, hasher)| hasher.update(bytes));
    }
    Ok(hashers.into_iter().map(|(a, hasher)| Digest::copied(a, &hasher.finalize())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_sees_the_same_bytes() {
        let bytes = vec![7; 600_000];
        let digests = of_reader(&Algorithm::ALL, &mut bytes.as_slice()).unwrap();
        for (algorithm, digest) in Algorithm::ALL.into_iter().zip(digests) {
            assert_eq!(digest, algorithm.hash(&[&bytes]).unwrap(), "{algorithm}");
        }
    }
}
