//! QEMU's own account of how the board went off, and what only QEMU can do to a
//! board (QMP, QEMU's machine protocol).

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    thread::{self, JoinHandle},
    time::Duration,
};

use serde::Deserialize;

/// How long QEMU may take until it answers, on a busy machine.
const ANSWERED: Duration = Duration::from_secs(120);
/// The longest message read. QMP events have some hundred bytes.
const MESSAGE: u64 = 1 << 20;

#[derive(Deserialize)]
struct Message {
    event: Option<String>,
    data: Option<Data>,
    #[serde(rename = "return")]
    answer: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Data {
    reason: Option<String>,
}

/// Follows QEMU's events until it ends.
#[derive(Debug)]
pub(crate) struct Events {
    commands: UnixStream,
    thread: Option<JoinHandle<Option<String>>>,
}

impl Events {
    /// Leaves QEMU's negotiation mode, which starts the events. QEMU answers once
    /// the machine is complete.
    ///
    /// # Errors
    /// When QEMU ends first.
    pub(crate) fn follow(stream: UnixStream) -> std::io::Result<Self> {
        let mut commands = stream.try_clone()?;
        commands.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
        stream.set_read_timeout(Some(ANSWERED))?;
        let mut reader = BufReader::new(stream);
        loop {
            let text = message(&mut reader).ok_or_else(|| {
                std::io::Error::other("it ended, or did not answer, before the machine ran")
            })?;
            if is_answer(&text) {
                break;
            }
        }
        reader.get_ref().set_read_timeout(None)?;
        let follow = move || {
            let mut reason = None;
            while let Some(text) = message(&mut reader) {
                reason = shutdown_reason(&text).or(reason);
            }
            reason
        };
        let thread = thread::Builder::new().name("qmp".to_owned()).spawn(follow)?;
        Ok(Self { commands, thread: Some(thread) })
    }

    /// Lets the machine run. Only once somebody reads its consoles: a serial port
    /// whose socket is full (some 280 single bytes fill one) stops the processor
    /// while it holds QEMU's lock, and then QEMU answers nobody any more.
    ///
    /// # Errors
    /// When QEMU has ended.
    pub(crate) fn run(&mut self) -> std::io::Result<()> {
        self.commands.write_all(b"{\"execute\":\"cont\"}\n")
    }

    /// Sends a BREAK to a serial line's device.
    ///
    /// # Errors
    /// When QEMU has ended.
    pub(crate) fn send_break(&mut self, chardev: &str) -> std::io::Result<()> {
        let command = format!(
            "{{\"execute\":\"chardev-send-break\",\"arguments\":{{\"id\":\"{chardev}\"}}}}\n"
        );
        self.commands.write_all(command.as_bytes())
    }

    /// The reason of the last `SHUTDOWN` event. Waits for QEMU's end.
    pub(crate) fn reason(&mut self) -> Option<String> {
        self.thread.take().and_then(|thread| thread.join().ok().flatten())
    }
}

/// The next message, within [`MESSAGE`]. `None` at the end.
fn message(reader: &mut BufReader<UnixStream>) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let length = reader.by_ref().take(MESSAGE).read_until(b'\n', &mut text).ok()?;
    (length > 0).then_some(text)
}

fn is_answer(text: &[u8]) -> bool {
    serde_json::from_slice::<Message>(text).is_ok_and(|message| message.answer.is_some())
}

fn shutdown_reason(text: &[u8]) -> Option<String> {
    let message: Message = serde_json::from_slice(text).ok()?;
    if message.event.as_deref() != Some("SHUTDOWN") {
        return None;
    }
    message.data?.reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_from_greeting_and_event() {
        let cases = [
            (r#"{"return":{}}"#, true),
            (r#"{"QMP":{"version":{},"capabilities":["oob"]}}"#, false),
            (r#"{"event":"RESUME"}"#, false),
            ("", false),
        ];
        for (text, expected) in cases {
            assert_eq!(is_answer(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn only_a_shutdown_event_has_a_reason() {
        let cases: &[(&str, Option<&str>)] = &[
            (
                r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#,
                Some("guest-shutdown"),
            ),
            (r#"{"event":"RESET","data":{"guest":true,"reason":"guest-reset"}}"#, None),
            (r#"{"return":{}}"#, None),
            (r#"{"QMP":{"version":{},"capabilities":["oob"]}}"#, None),
            ("not json", None),
        ];
        for (text, expected) in cases {
            assert_eq!(shutdown_reason(text.as_bytes()).as_deref(), *expected, "{text}");
        }
    }
}
