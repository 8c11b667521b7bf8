//! The relay between QEMU and swtpm.
//!
//! QEMU's `emulator` back end speaks to swtpm over a control socket, and hands it
//! one end of a socket pair with `CMD_SET_DATAFD` (swtpm's `tpm_ioctl.h`; the
//! descriptor travels as `SCM_RIGHTS`). TPM commands and answers pass on that pair.
//! The relay passes control bytes on unread; a descriptor that comes along is
//! replaced by one of its own, so that it sits in the data path as well.

use std::{
    io::{IoSlice, IoSliceMut, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};

use super::{Capture, Exchange, Interposer, command};

/// Why the relay could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket QEMU is to connect to cannot be made.
    #[error("cannot listen for the board's TPM channel at {path}: {source}")]
    Listen {
        /// The socket's path. A long one does not fit in a socket address (108 bytes).
        path: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// No thread or no socket pair.
    #[error("cannot start the TPM relay: {0}")]
    Start(std::io::Error),
    /// The TPM was not reset.
    #[error("the TPM cannot be reset: {0}")]
    Reset(String),
}

/// `CMD_INIT` of swtpm's control channel (`tpm_ioctl.h`) without flags, big-endian:
/// `_TPM_Init`, the TPM's reset line. Its answer is a `TPM_RC` of four bytes.
const INIT: [u8; 8] = [0, 0, 0, 2, 0, 0, 0, 0];

/// `TPM2_Shutdown(CLEAR)` (TCG Part 3, 9.4), as the kernel sends it before a restart.
/// Without it a reset counts as a power cut that may hide a guess.
const SHUTDOWN: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x45, 0, 0];

/// How long swtpm may take to answer while it is reset.
const ANSWER: Duration = Duration::from_secs(20);

/// What goes to the relay's thread: reset the TPM; and what comes back.
const RESET: u8 = b'r';
const DONE: u8 = b'd';
const FAILED: u8 = b'f';

/// Firmware and boot loader measure into the PCRs below this one; Linux and its
/// initramfs into 10, 11 and 15.
const FIRMWARE_PCRS: u32 = 10;

/// A running relay. It ends when either side hangs up, or when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Held open: the relay ends when it closes.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens at `path` for one control connection, and relays it to `swtpm`, an
    /// open control connection. What passes goes into `capture`, and so does what
    /// `interposer` holds back.
    ///
    /// # Errors
    /// [`WireError`] when the socket or the thread cannot be made.
    pub fn start(
        path: &Path,
        swtpm: UnixStream,
        capture: Capture,
        interposer: Interposer,
    ) -> Result<Self, WireError> {
        let listener = UnixListener::bind(path)
            .map_err(|source| WireError::Listen { path: path.display().to_string(), source })?;
        let (stop, stopped) = UnixStream::pair().map_err(WireError::Start)?;
        let thread = thread::Builder::new()
            .name("tpm relay".to_owned())
            .spawn(move || {
                if let Some(qemu) = accept(&listener, &stopped) {
                    let relay = Relay {
                        qemu,
                        swtpm,
                        data: None,
                        pending: Pending::default(),
                        capture,
                        interposer,
                        firmware: None,
                    };
                    relay.run(&stopped);
                }
            })
            .map_err(WireError::Start)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Resets the TPM, in good order, and gives it the firmware's commands of this boot
    /// again: Startup, and every extend of the PCRs 0 to 9 before the first reset. It is
    /// then as it was when the kernel started. None of this is in the capture.
    ///
    /// The board must not be using the TPM meanwhile.
    ///
    /// # Errors
    /// [`WireError::Reset`].
    pub fn reset(&mut self) -> Result<(), WireError> {
        let failed = |why: &str| WireError::Reset(why.to_owned());
        let Some(stop) = self.stop.as_mut() else { return Err(failed("the relay has ended")) };
        let mut answer = [0];
        stop.write_all(&[RESET])
            .and_then(|()| stop.read_exact(&mut answer))
            .map_err(|e| WireError::Reset(e.to_string()))?;
        match answer {
            [DONE] => Ok(()),
            _ => Err(failed("swtpm refused, or the board has not used its TPM yet")),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &UnixListener, stopped: &UnixStream) -> Option<UnixStream> {
    let ready = readable(&[stopped.as_fd(), listener.as_fd()])?;
    if ready.first() == Some(&true) {
        return None;
    }
    listener.accept().ok().map(|(stream, _)| stream)
}

/// Waits until one of `fds` can be read or has hung up; says which ones. `None`
/// when polling itself fails.
fn readable(fds: &[BorrowedFd<'_>]) -> Option<Vec<bool>> {
    let mut set: Vec<_> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    loop {
        match poll(&mut set, PollTimeout::NONE) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
    Some(set.iter().map(|fd| fd.any().unwrap_or(true)).collect())
}

/// The data path, once QEMU has set one up.
struct Data {
    qemu: UnixStream,
    swtpm: UnixStream,
}

struct Relay {
    qemu: UnixStream,
    swtpm: UnixStream,
    data: Option<Data>,
    pending: Pending,
    capture: Capture,
    interposer: Interposer,
    /// The firmware's commands that make the TPM's state, once there was a reset.
    firmware: Option<Vec<Vec<u8>>>,
}

impl Relay {
    /// Relays until one side hangs up, or the owner does.
    fn run(mut self, stopped: &UnixStream) {
        loop {
            let mut fds = vec![stopped.as_fd(), self.qemu.as_fd(), self.swtpm.as_fd()];
            if let Some(data) = &self.data {
                fds.extend([data.qemu.as_fd(), data.swtpm.as_fd()]);
            }
            let Some(ready) = readable(&fds) else { return };
            let ready = |i: usize| ready.get(i).copied().unwrap_or(false);
            // Answers before commands: a command that follows its predecessor's
            // answer must not be taken for a part of it.
            if (ready(4) && self.answer().is_none())
                || (ready(3) && self.command().is_none())
                || (ready(2) && self.control_answer().is_none())
                || (ready(1) && self.control().is_none())
                || (ready(0) && self.asked(stopped).is_none())
            {
                return;
            }
        }
    }

    /// What the owner asks for. `None` when it has gone.
    fn asked(&mut self, mut owner: &UnixStream) -> Option<()> {
        let mut what = [0];
        owner.read_exact(&mut what).ok()?;
        let answer = if what == [RESET] && self.reset().is_some() { DONE } else { FAILED };
        owner.write_all(&[answer]).ok()
    }

    fn reset(&mut self) -> Option<()> {
        let data = self.data.as_mut()?;
        let firmware =
            self.firmware.get_or_insert_with(|| firmware(&self.capture.exchanges())).clone();
        self.swtpm.set_read_timeout(Some(ANSWER)).ok()?;
        data.swtpm.set_read_timeout(Some(ANSWER)).ok()?;
        let mut done = tell(&mut data.swtpm, &SHUTDOWN)?;
        let mut result = [0xff; 4];
        self.swtpm.write_all(&INIT).ok()?;
        self.swtpm.read_exact(&mut result).ok()?;
        done &= result == [0; 4];
        for command in firmware {
            done &= tell(&mut data.swtpm, &command)?;
        }
        self.swtpm.set_read_timeout(None).ok()?;
        data.swtpm.set_read_timeout(None).ok()?;
        done.then_some(())
    }

    fn command(&mut self) -> Option<()> {
        let data = self.data.as_mut()?;
        let bytes = receive(&mut data.qemu)?;
        if let Some(whole) = self.pending.command(&bytes, self.capture.start.elapsed()) {
            self.capture.push(whole);
        }
        if !self.interposer.holds() {
            return data.swtpm.write_all(&bytes).ok();
        }
        if !self.pending.is_command() {
            return Some(());
        }
        let answer = command::FAILURE;
        if let Some(whole) = self.pending.answer(&answer, self.capture.start.elapsed()) {
            self.capture.push(whole);
        }
        data.qemu.write_all(&answer).ok()
    }

    fn answer(&mut self) -> Option<()> {
        let data = self.data.as_mut()?;
        let bytes = receive(&mut data.swtpm)?;
        if let Some(whole) = self.pending.answer(&bytes, self.capture.start.elapsed()) {
            self.capture.push(whole);
        }
        data.qemu.write_all(&bytes).ok()
    }

    fn control_answer(&mut self) -> Option<()> {
        let bytes = receive(&mut self.swtpm)?;
        self.qemu.write_all(&bytes).ok()
    }

    /// Passes control bytes on. With a descriptor from QEMU, our own goes to swtpm.
    fn control(&mut self) -> Option<()> {
        let (bytes, fd) = receive_with_fd(&self.qemu)?;
        let Some(fd) = fd else {
            return self.swtpm.write_all(&bytes).ok();
        };
        let (ours, theirs) = UnixStream::pair().ok()?;
        self.data = Some(Data { qemu: UnixStream::from(fd), swtpm: ours });
        let fds = [theirs.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&fds)];
        let part = [IoSlice::new(&bytes)];
        let sent =
            sendmsg::<()>(self.swtpm.as_raw_fd(), &part, &rights, MsgFlags::MSG_NOSIGNAL, None);
        // Control messages are tens of bytes: a socket buffer takes them whole.
        (sent.ok()? == bytes.len()).then_some(())
    }
}

/// Sends the TPM a command of our own; says whether it succeeded.
fn tell(swtpm: &mut UnixStream, request: &[u8]) -> Option<bool> {
    swtpm.write_all(request).ok()?;
    let mut head = [0; command::HEADER];
    swtpm.read_exact(&mut head).ok()?;
    let rest = command::claimed(&head)?.checked_sub(command::HEADER)?;
    let mut parameters = vec![0; rest.min(command::FRAME_LIMIT)];
    swtpm.read_exact(&mut parameters).ok()?;
    Some(command::code(&head) == Some(0))
}

/// The commands with which the firmware starts the TPM up and measures.
fn firmware(exchanges: &[Exchange]) -> Vec<Vec<u8>> {
    let measures = |e: &Exchange| {
        e.code() == Some(command::PCR_EXTEND) && e.handles().iter().all(|pcr| *pcr < FIRMWARE_PCRS)
    };
    exchanges
        .iter()
        .filter(|e| e.response_code() == Some(0))
        .filter(|e| e.code() == Some(command::STARTUP) || measures(e))
        .map(|e| e.request.clone())
        .collect()
}

/// One read. `None` at the end of the stream.
fn receive(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut buffer = [0; command::FRAME_LIMIT];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(length) => return buffer.get(..length).map(<[u8]>::to_vec),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// One read that takes a descriptor along when one comes.
fn receive_with_fd(stream: &UnixStream) -> Option<(Vec<u8>, Option<OwnedFd>)> {
    let mut buffer = [0; command::FRAME_LIMIT];
    let mut space = cmsg_space!([RawFd; 1]);
    let (length, raw) = {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message =
            recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags).ok()?;
        let raw = message.cmsgs().ok()?.find_map(|c| match c {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        (message.bytes, raw)
    };
    if length == 0 {
        return None;
    }
    #[allow(unsafe_code, reason = "SCM_RIGHTS gives a bare number that nobody else owns yet")]
    // SAFETY: the kernel installed this descriptor for us in the call above.
    let fd = raw.map(|raw| unsafe { OwnedFd::from_raw_fd(raw) });
    Some((buffer.get(..length)?.to_vec(), fd))
}

/// The exchange under way: commands and answers take turns on the data path.
#[derive(Debug, Default)]
struct Pending {
    at: Duration,
    request: Vec<u8>,
    response: Vec<u8>,
}

impl Pending {
    /// Takes a piece of a command. Gives back the exchange before it when that one
    /// never got its whole answer.
    fn command(&mut self, bytes: &[u8], now: Duration) -> Option<Exchange> {
        let cut = if self.response.is_empty() { None } else { Some(self.finish(now)) };
        if self.request.is_empty() {
            self.at = now;
        }
        append(&mut self.request, bytes);
        cut
    }

    /// Takes a piece of an answer. Gives the exchange when the answer is whole.
    fn answer(&mut self, bytes: &[u8], now: Duration) -> Option<Exchange> {
        append(&mut self.response, bytes);
        let whole = command::claimed(&self.response)
            .is_some_and(|size| self.response.len() >= size.max(command::HEADER));
        whole.then(|| self.finish(now))
    }

    /// The command is whole.
    fn is_command(&self) -> bool {
        command::claimed(&self.request)
            .is_some_and(|size| self.request.len() >= size.max(command::HEADER))
    }

    fn finish(&mut self, now: Duration) -> Exchange {
        let done = std::mem::take(self);
        Exchange {
            at: done.at,
            took: now.saturating_sub(done.at),
            request: done.request,
            response: done.response,
        }
    }
}

/// Appends within [`command::FRAME_LIMIT`]: a guest that sends without end must
/// not fill our memory. What is over passes on all the same, it is only not kept.
fn append(frame: &mut Vec<u8>, bytes: &[u8]) {
    let room = command::FRAME_LIMIT.saturating_sub(frame.len());
    frame.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const SELF_TEST: &[u8] = &[0x80, 1, 0, 0, 0, 11, 0, 0, 1, 0x43, 1];
    const SUCCESS: &[u8] = &[0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0];

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn pieces_of_a_frame_make_one_exchange() {
        let mut pending = Pending::default();
        assert_eq!(pending.command(&SELF_TEST[..3], ms(5)), None);
        assert_eq!(pending.command(&SELF_TEST[3..], ms(6)), None);
        assert_eq!(pending.answer(&SUCCESS[..9], ms(7)), None);
        let whole = pending.answer(&SUCCESS[9..], ms(8)).unwrap();
        assert_eq!(whole.request, SELF_TEST);
        assert_eq!(whole.response, SUCCESS);
        assert_eq!((whole.at, whole.took), (ms(5), ms(3)));
    }

    #[test]
    fn an_answer_that_lies_about_its_size_ends_with_the_next_command() {
        let mut pending = Pending::default();
        let _ = pending.command(SELF_TEST, ms(1));
        let lie = [0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(pending.answer(&lie, ms(2)), None);
        let cut = pending.command(SELF_TEST, ms(3)).unwrap();
        assert_eq!(cut.response, lie);
        assert!(pending.answer(SUCCESS, ms(4)).is_some(), "the next one is whole again");
    }

    #[test]
    fn a_frame_without_end_is_kept_within_the_limit() {
        let mut pending = Pending::default();
        for _ in 0..10 {
            let _ = pending.command(&[0; 1000], ms(1));
        }
        assert_eq!(pending.request.len(), command::FRAME_LIMIT);
    }

    #[test]
    fn the_relay_replaces_the_descriptor_and_records_what_passes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ctrl");
        let (swtpm, swtpm_far) = UnixStream::pair().unwrap();
        let (capture, interposer) = (Capture::new(Instant::now()), Interposer::default());
        let _proxy = Proxy::start(&path, swtpm, capture.clone(), interposer.clone()).unwrap();
        // As QEMU: connect, hand over one end of a pair with CMD_SET_DATAFD (16).
        let qemu = UnixStream::connect(&path).unwrap();
        let (mut data, data_far) = UnixStream::pair().unwrap();
        let fds = [data_far.as_raw_fd()];
        let set_datafd = [0, 0, 0, 16];
        let part = [IoSlice::new(&set_datafd)];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(qemu.as_raw_fd(), &part, &rights, MsgFlags::empty(), None).unwrap();
        // As swtpm: take it, answer one command.
        let (bytes, fd) = receive_with_fd(&swtpm_far).unwrap();
        assert_eq!(bytes, set_datafd);
        let mut tpm = UnixStream::from(fd.unwrap());
        data.write_all(SELF_TEST).unwrap();
        assert_eq!(receive(&mut tpm).unwrap(), SELF_TEST);
        tpm.write_all(SUCCESS).unwrap();
        assert_eq!(receive(&mut data).unwrap(), SUCCESS);
        // The exchange is recorded before its answer is passed on.
        let seen = capture.exchanges();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].name(), "SelfTest");
        assert_eq!(seen[0].response_code(), Some(0));

        interposer.hold();
        data.write_all(&SELF_TEST[..4]).unwrap();
        data.write_all(&SELF_TEST[4..]).unwrap();
        assert_eq!(receive(&mut data).unwrap(), command::FAILURE);
        assert_eq!(capture.exchanges()[1].response_code(), Some(0x101));
        interposer.pass();
        data.write_all(SELF_TEST).unwrap();
        assert_eq!(receive(&mut tpm).unwrap(), SELF_TEST, "the one held back never came");
    }

    /// An extend of this PCR, up to its handle area.
    fn extend(pcr: u8) -> Vec<u8> {
        vec![0x80, 2, 0, 0, 0, 14, 0, 0, 1, 0x82, 0, 0, 0, pcr]
    }

    #[test]
    fn a_reset_gives_the_tpm_what_the_firmware_gave_it() {
        const STARTUP: [u8; 12] = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ctrl");
        let (mut control, far) = UnixStream::pair().unwrap();
        let capture = Capture::new(Instant::now());
        let mut proxy = Proxy::start(&path, far, capture.clone(), Interposer::default()).unwrap();
        let qemu = UnixStream::connect(&path).unwrap();
        let (mut board, data_far) = UnixStream::pair().unwrap();
        let fds = [data_far.as_raw_fd()];
        let part = [IoSlice::new(&[0, 0, 0, 16])];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(qemu.as_raw_fd(), &part, &rights, MsgFlags::empty(), None).unwrap();
        let mut tpm = UnixStream::from(receive_with_fd(&control).unwrap().1.unwrap());
        for command in [&STARTUP[..], SELF_TEST, &extend(0), &extend(9), &extend(10), &extend(15)] {
            board.write_all(command).unwrap();
            assert_eq!(receive(&mut tpm).unwrap(), command);
            tpm.write_all(SUCCESS).unwrap();
            assert_eq!(receive(&mut board).unwrap(), SUCCESS);
        }
        let swtpm = thread::spawn(move || {
            let mut told = Vec::new();
            let mut take = || {
                told.push(receive(&mut tpm).unwrap());
                tpm.write_all(SUCCESS).unwrap();
            };
            take();
            let mut init = INIT;
            control.read_exact(&mut init).unwrap();
            control.write_all(&[0; 4]).unwrap();
            (0..3).for_each(|_| take());
            (init, told)
        });
        proxy.reset().unwrap();
        let (init, told) = swtpm.join().unwrap();
        assert_eq!(init, INIT);
        assert_eq!(told, [SHUTDOWN.to_vec(), STARTUP.to_vec(), extend(0), extend(9)]);
        assert_eq!(capture.exchanges().len(), 6, "the board's own commands alone");
    }

    #[test]
    fn a_tpm_that_nobody_has_used_is_not_reset() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ctrl");
        let (swtpm, _far) = UnixStream::pair().unwrap();
        let mut proxy =
            Proxy::start(&path, swtpm, Capture::new(Instant::now()), Interposer::default())
                .unwrap();
        let _qemu = UnixStream::connect(&path).unwrap();
        assert!(proxy.reset().is_err());
    }

    #[test]
    fn a_relay_nobody_connects_to_ends_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (swtpm, _far) = UnixStream::pair().unwrap();
        let capture = Capture::new(Instant::now());
        drop(
            Proxy::start(&dir.path().join("ctrl"), swtpm, capture, Interposer::default()).unwrap(),
        );
    }

    #[test]
    fn a_socket_path_that_cannot_be_is_named() {
        let (swtpm, _far) = UnixStream::pair().unwrap();
        let capture = Capture::new(Instant::now());
        let path = Path::new("/nonexistent-directory/ctrl");
        let text =
            Proxy::start(path, swtpm, capture, Interposer::default()).unwrap_err().to_string();
        assert!(text.contains("/nonexistent-directory/ctrl"), "{text}");
    }
}
