//! A TPM that gives whatever answer a test wants: for states that a software TPM
//! cannot be brought into. It stands where swtpm would.

use initramfs_unseal::tpm::Tpm;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tss_esapi::tcti_ldr::TctiNameConf;

/// Bytes of a command or response header (TPM 2.0 Library part 1, 18.2).
const HEADER: usize = 10;

/// Sockets where a TPM answers.
pub(crate) struct FakeTpm {
    dir: tempfile::TempDir,
    commands: Arc<AtomicU32>,
}

/// A response without sessions: code and parameters.
pub(crate) fn response(code: u32, parameters: &[u8]) -> Vec<u8> {
    let size = u32::try_from(HEADER + parameters.len()).unwrap();
    [&[0x80, 0x01][..], &size.to_be_bytes(), &code.to_be_bytes(), parameters].concat()
}

impl FakeTpm {
    /// `answer` gets a command's code and how many came before it.
    pub(crate) fn start(answer: impl Fn(u32, u32) -> Vec<u8> + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let commands = Arc::new(AtomicU32::new(0));
        let data = UnixListener::bind(dir.path().join("tpm")).unwrap();
        let control = UnixListener::bind(dir.path().join("tpm.ctrl")).unwrap();
        let count = commands.clone();
        std::thread::spawn(move || {
            for stream in data.incoming().flatten() {
                serve(stream, &count, &answer);
            }
        });
        std::thread::spawn(move || {
            for mut stream in control.incoming().flatten() {
                // CMD_SET_LOCALITY with its byte; a result of 0 is the whole answer.
                let mut command = [0; 5];
                while stream.read_exact(&mut command).is_ok() {
                    stream.write_all(&[0; 4]).unwrap();
                }
            }
        });
        Self { dir, commands }
    }

    pub(crate) fn connect(&self) -> Tpm {
        let tcti = format!("swtpm:path={}", self.dir.path().join("tpm").display());
        Tpm::connect(TctiNameConf::from_str(&tcti).unwrap()).unwrap()
    }

    /// Commands that came.
    pub(crate) fn commands(&self) -> u32 {
        self.commands.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: UnixStream, count: &AtomicU32, answer: &impl Fn(u32, u32) -> Vec<u8>) {
    let mut header = [0; HEADER];
    while stream.read_exact(&mut header).is_ok() {
        let word = |at| u32::from_be_bytes([0, 1, 2, 3].map(|i: usize| header[at + i]));
        let mut rest = vec![0; word(2) as usize - HEADER];
        stream.read_exact(&mut rest).unwrap();
        stream.write_all(&answer(word(6), count.fetch_add(1, Ordering::SeqCst))).unwrap();
    }
}
