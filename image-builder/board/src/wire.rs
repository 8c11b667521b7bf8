//! What passes between the board and its TPM, read on the wire.
//!
//! [`proxy`] stands between QEMU and swtpm and keeps every byte; [`command`] gives
//! a command its name and handles. Nothing is changed on the way, unless an
//! [`Interposer`] holds it back.

pub mod command;
mod proxy;

use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

pub use proxy::{Proxy, WireError};

/// One command and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// When the command's first byte passed, since power-on.
    pub at: Duration,
    /// How long until the answer's last byte had passed.
    pub took: Duration,
    /// The command, whole, as the board sent it.
    pub request: Vec<u8>,
    /// The answer, whole, as the TPM gave it. Empty when none came.
    pub response: Vec<u8>,
}

impl Exchange {
    /// `TPM_CC`, when the request is long enough to have one.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        command::code(&self.request)
    }

    /// The command's name as TCG Part 2 has it, without `TPM2_CC_`.
    #[must_use]
    pub fn name(&self) -> String {
        match self.code() {
            Some(code) => {
                command::name(code).map_or_else(|| format!("{code:#010x}"), str::to_owned)
            }
            None => "malformed".to_owned(),
        }
    }

    /// The handles of the command's handle area.
    #[must_use]
    pub fn handles(&self) -> Vec<u32> {
        command::handles(&self.request)
    }

    /// `TPM_RC`, when the TPM answered.
    #[must_use]
    pub fn response_code(&self) -> Option<u32> {
        command::code(&self.response)
    }

    /// True for what the kernel's IMA does on its own: extending PCR 10.
    #[must_use]
    pub fn is_ima_extend(&self) -> bool {
        self.code() == Some(command::PCR_EXTEND) && self.handles() == [10]
    }
}

impl std::fmt::Display for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "[{:9.3}] {:<22} {:>4} B out {:>4} B in {:7.1} ms rc ",
            self.at.as_secs_f64(),
            self.name(),
            self.request.len(),
            self.response.len(),
            self.took.as_secs_f64() * 1000.0,
        )?;
        match self.response_code() {
            Some(code) => write!(f, "{code:#05x}")?,
            None => write!(f, "none")?,
        }
        for handle in self.handles() {
            write!(f, " {handle:#010x}")?;
        }
        Ok(())
    }
}

/// The exchanges of one boot, as they happen. Clones share the same record.
#[derive(Debug, Clone)]
pub struct Capture {
    start: Instant,
    exchanges: Arc<Mutex<Vec<Exchange>>>,
}

impl Capture {
    /// An empty record whose clock starts at `start`, the board's power-on.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self { start, exchanges: Arc::default() }
    }

    /// All exchanges so far.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The exchanges that began within `window`, since power-on.
    #[must_use]
    pub fn within(&self, window: &Range<Duration>) -> Vec<Exchange> {
        self.exchanges().into_iter().filter(|e| window.contains(&e.at)).collect()
    }

    /// How often any run of `run` bytes of `secret` stands in what passed, in
    /// either direction. A secret shorter than `run` is looked for whole.
    #[must_use]
    pub fn leaks(&self, secret: &[u8], run: usize) -> usize {
        leaks(&self.exchanges(), secret, run)
    }

    fn push(&self, exchange: Exchange) {
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner).push(exchange);
    }
}

/// Someone on the wires who keeps commands from the TPM and answers
/// `TPM_RC_FAILURE` in its place, for as long as he likes. The TPM stays powered
/// and keeps its PCRs. Clones are the same person.
#[derive(Debug, Clone, Default)]
pub struct Interposer(Arc<AtomicBool>);

impl Interposer {
    /// From now on no command reaches the TPM.
    pub fn hold(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// From now on all pass again.
    pub fn pass(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    fn holds(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// [`Capture::leaks`] for some exchanges alone.
#[must_use]
pub fn leaks(exchanges: &[Exchange], secret: &[u8], run: usize) -> usize {
    let run = run.clamp(1, secret.len().max(1));
    let seen = |bytes: &[u8]| {
        secret.windows(run).filter(|part| bytes.windows(run).any(|w| w == *part)).count()
    };
    exchanges.iter().map(|e| seen(&e.request) + seen(&e.response)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(request: &[u8], response: &[u8], ms: u64) -> Exchange {
        Exchange {
            at: Duration::from_millis(ms),
            took: Duration::from_millis(2),
            request: request.to_vec(),
            response: response.to_vec(),
        }
    }

    // TPM2_PCR_Extend of PCR 10 up to its handle area; TCG Part 3, 22.2.
    const EXTEND_10: &[u8] = &[0x80, 0x02, 0, 0, 0, 14, 0, 0, 1, 0x82, 0, 0, 0, 10];
    const SUCCESS: &[u8] = &[0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0];

    #[test]
    fn an_exchange_reads_as_a_line() {
        let text = exchange(EXTEND_10, SUCCESS, 1500).to_string();
        assert_eq!(
            text,
            "[    1.500] PCR_Extend               14 B out   10 B in     2.0 ms rc 0x000 0x0000000a"
        );
    }

    #[test]
    fn short_and_foreign_bytes_are_named_and_do_not_panic() {
        for length in 0..EXTEND_10.len() {
            let e = exchange(&EXTEND_10[..length], &SUCCESS[..length.min(9)], 0);
            let _ = e.to_string();
            assert!(!e.is_ima_extend(), "{length} bytes");
        }
        assert_eq!(exchange(&[0xff; 64], &[], 0).name(), "0xffffffff");
    }

    #[test]
    fn a_window_holds_its_start_and_not_its_end() {
        let capture = Capture::new(Instant::now());
        for ms in [9, 10, 19, 20] {
            capture.push(exchange(EXTEND_10, SUCCESS, ms));
        }
        let window = Duration::from_millis(10)..Duration::from_millis(20);
        let at: Vec<_> = capture.within(&window).iter().map(|e| e.at.as_millis()).collect();
        assert_eq!(at, [10, 19]);
    }

    #[test]
    fn a_secret_on_the_wire_is_found_and_another_is_not() {
        let capture = Capture::new(Instant::now());
        let secret: Vec<u8> = (0..32).collect();
        let mut answer = SUCCESS.to_vec();
        answer.extend_from_slice(&secret[4..12]);
        capture.push(exchange(EXTEND_10, &answer, 0));
        assert_eq!(capture.leaks(&secret, 8), 1, "one run of eight bytes passed");
        assert_eq!(capture.leaks(&secret, 9), 0, "no run of nine did");
        assert_eq!(capture.leaks(&[0x77; 32], 8), 0);
    }
}
