//! QEMU's own account of how the board went off, and what only QEMU can do to a
//! board (QMP, QEMU's machine protocol).

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    sync::mpsc::{self, Receiver},
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
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

#[derive(Deserialize)]
struct Data {
    reason: Option<String>,
}

/// QEMU's answer to a command: done, or why not.
type Answer = Result<(), String>;

/// Follows QEMU's events until it ends.
#[derive(Debug)]
pub(crate) struct Events {
    commands: UnixStream,
    answers: Receiver<Answer>,
    thread: Option<JoinHandle<Option<String>>>,
}

impl Events {
    /// Leaves QEMU's negotiation mode, which starts the events. QEMU answers once
    /// the machine is complete.
    ///
    /// # Errors
    /// When QEMU ends first.
    pub(crate) fn follow(stream: UnixStream) -> io::Result<Self> {
        let mut commands = stream.try_clone()?;
        commands.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
        stream.set_read_timeout(Some(ANSWERED))?;
        let mut reader = BufReader::new(stream);
        loop {
            let text = message(&mut reader).ok_or_else(|| {
                io::Error::other("it ended, or did not answer, before the machine ran")
            })?;
            if answer(&text).is_some() {
                break;
            }
        }
        reader.get_ref().set_read_timeout(None)?;
        let (sender, answers) = mpsc::channel();
        let follow = move || {
            let mut reason = None;
            while let Some(text) = message(&mut reader) {
                if let Some(answer) = answer(&text) {
                    // Nobody waits any more: the board is being dropped.
                    let _ = sender.send(answer);
                }
                reason = shutdown_reason(&text).or(reason);
            }
            reason
        };
        let thread = thread::Builder::new().name("qmp".to_owned()).spawn(follow)?;
        Ok(Self { commands, answers, thread: Some(thread) })
    }

    /// Lets the machine run. Only once somebody reads its consoles: a serial port
    /// whose socket is full (some 280 single bytes fill one) stops the processor
    /// while it holds QEMU's lock, and then QEMU answers nobody any more.
    ///
    /// # Errors
    /// When QEMU has ended.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        self.command("cont", &serde_json::json!({}))
    }

    /// Sends a BREAK to a serial line's device.
    ///
    /// # Errors
    /// When QEMU has ended.
    pub(crate) fn send_break(&mut self, chardev: &str) -> io::Result<()> {
        self.command("chardev-send-break", &serde_json::json!({ "id": chardev }))
    }

    /// Sets a property of the device with this id. `value` is a number or a truth value,
    /// written as the command line has it.
    ///
    /// # Errors
    /// When QEMU has ended, or has no such device or property.
    pub(crate) fn set(&mut self, id: &str, property: &str, value: &str) -> io::Result<()> {
        let value: serde_json::Value = serde_json::from_str(value)?;
        self.command(
            "qom-set",
            &serde_json::json!({
                "path": format!("/machine/peripheral/{id}"), "property": property, "value": value,
            }),
        )
    }

    /// Gives a command and waits until it is done.
    fn command(&mut self, name: &str, arguments: &serde_json::Value) -> io::Result<()> {
        let command = serde_json::json!({ "execute": name, "arguments": arguments });
        self.commands.write_all(format!("{command}\n").as_bytes())?;
        match self.answers.recv_timeout(ANSWERED) {
            Ok(answer) => answer.map_err(|reason| io::Error::other(format!("{name}: {reason}"))),
            Err(_) => Err(io::Error::other(format!("QEMU ended, or did not answer to {name}"))),
        }
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

/// What this message answers to a command; `None` for the greeting and events.
fn answer(text: &[u8]) -> Option<Answer> {
    let message: Message = serde_json::from_slice(text).ok()?;
    match (message.answer, message.error) {
        (_, Some(refusal)) => Some(Err(refusal.desc)),
        (Some(_), None) => Some(Ok(())),
        (None, None) => None,
    }
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
        let refused = r#"{"error":{"class":"GenericError","desc":"no such thing"}}"#;
        let cases = [
            (r#"{"return":{}}"#, Some(Ok(()))),
            (refused, Some(Err("no such thing".to_owned()))),
            (r#"{"QMP":{"version":{},"capabilities":["oob"]}}"#, None),
            (r#"{"event":"RESUME"}"#, None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(answer(text.as_bytes()), expected, "{text}");
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
