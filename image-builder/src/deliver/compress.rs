//! Compressed images.
//!
//! Both encoders cut the image into blocks of a fixed size, so that the bytes depend on
//! neither the number of threads nor the machine; both are built from the sources that
//! `Cargo.lock` names, so not on the machine's libraries either.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write};
use std::num::NonZero;
use std::thread::available_parallelism;

use liblzma::stream::{Check, MtStreamBuilder};
use liblzma::write::XzEncoder;
use serde::Serialize;
use zstd::zstd_safe::CParameter;

/// How an image is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Smaller; what Raspberry Pi Imager of any version takes.
    Xz,
    /// Faster to make and to unpack.
    Zst,
}

/// xz's own default: a dictionary of 8 MiB, and 94 MiB of memory for each thread.
const XZ_PRESET: u32 = 6;

/// Bytes in a block of xz: three dictionaries would be xz's default; one less costs half a
/// percent and lets another thread into the same memory.
const XZ_BLOCK: u64 = 16 << 20;

/// Bytes of memory that the encoder of xz may take.
const XZ_MEMORY: u64 = 384 << 20;

/// High, and short of the levels that take much more memory and time for little.
const ZSTD_LEVEL: i32 = 15;

/// Bytes in a job of zstd; several times its window of 4 MiB at this level.
const ZSTD_JOB: u32 = 16 << 20;

/// Threads that zstd may use: each has a job and the state of this level in memory.
const ZSTD_THREADS: u32 = 4;

/// Bytes read at a time.
const CHUNK: usize = 256 << 10;

impl Compression {
    /// What file names end with.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Xz => "xz",
            Self::Zst => "zst",
        }
    }

    /// Compresses `from`, which has `size` bytes. `moved` is told how many are done.
    ///
    /// # Errors
    /// If either file fails.
    pub fn compress(
        self,
        from: &File,
        size: u64,
        to: impl Write,
        moved: impl FnMut(u64),
    ) -> io::Result<()> {
        let threads = available_parallelism().map_or(1, NonZero::get);
        self.compress_with(u32::try_from(threads).unwrap_or(1), from, size, to, moved)
    }

    fn compress_with(
        self,
        threads: u32,
        from: &File,
        size: u64,
        to: impl Write,
        moved: impl FnMut(u64),
    ) -> io::Result<()> {
        let to = BufWriter::with_capacity(CHUNK, to);
        match self {
            Self::Xz => {
                let stream = xz(threads).encoder().map_err(io::Error::other)?;
                let mut encoder = XzEncoder::new_stream(to, stream);
                copy(from, size, &mut encoder, moved)?;
                encoder.finish()?.flush()
            }
            Self::Zst => {
                let mut encoder = zstd::Encoder::new(to, ZSTD_LEVEL)?;
                encoder.include_checksum(true)?;
                encoder.set_pledged_src_size(Some(size))?;
                // Without workers the bytes would be others than with any number of them.
                encoder.multithread(threads.clamp(1, ZSTD_THREADS))?;
                encoder.set_parameter(CParameter::JobSize(ZSTD_JOB))?;
                copy(from, size, &mut encoder, moved)?;
                encoder.finish()?.flush()
            }
        }
    }
}

/// The encoder of xz with as many threads, up to these, as its memory allows.
fn xz(threads: u32) -> MtStreamBuilder {
    let with = |threads| {
        let mut builder = MtStreamBuilder::new();
        builder.preset(XZ_PRESET).block_size(XZ_BLOCK).check(Check::Crc64).threads(threads);
        builder
    };
    let allowed = |threads: &u32| with(*threads).memusage() <= XZ_MEMORY;
    with((1..=threads.max(1)).rev().find(allowed).unwrap_or(1))
}

fn copy(
    mut from: &File,
    size: u64,
    to: &mut impl Write,
    mut moved: impl FnMut(u64),
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < size {
        let length = usize::try_from(size - done).unwrap_or(CHUNK).min(CHUNK);
        let part = buffer.get_mut(..length).unwrap_or_default();
        from.read_exact(part)?;
        to.write_all(part)?;
        done += length as u64;
        moved(done);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Seek as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    /// More than two blocks and jobs, with something in each of them.
    fn sample() -> (File, u64) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(40 << 20).unwrap();
        let mut state = 0_u64;
        for at in (0..40_u64 << 20).step_by(4096) {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            file.write_all_at(&state.to_le_bytes().repeat(32), at).unwrap();
        }
        (file, 40 << 20)
    }

    #[test]
    fn the_number_of_threads_does_not_show_in_the_bytes() {
        let (mut file, size) = sample();
        for compression in [Compression::Xz, Compression::Zst] {
            let mut with = |threads| {
                file.rewind().unwrap();
                let mut out = Vec::new();
                compression.compress_with(threads, &file, size, &mut out, |_| ()).unwrap();
                out
            };
            let one = with(1);
            assert!(one.len() < 4 << 20, "{compression:?}: {}", one.len());
            assert!(with(3) == one, "{compression:?}");
        }
    }

    #[test]
    fn many_processors_take_no_more_memory() {
        for threads in [1, 2, 64, 1024] {
            assert!(xz(threads).memusage() <= XZ_MEMORY, "{threads}");
        }
        assert!(xz(2).memusage() > xz(1).memusage(), "premise: threads cost memory");
    }

    #[test]
    fn an_image_that_shrinks_meanwhile_is_an_error() {
        let (mut file, size) = sample();
        file.set_len(size / 2).unwrap();
        file.rewind().unwrap();
        let result = Compression::Zst.compress_with(1, &file, size, Vec::new(), |_| ());
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
