//! QEMU's own account of how the board went off (QMP, QEMU's machine protocol).

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    thread::{self, JoinHandle},
};

use serde::Deserialize;

/// The longest message read. QMP events have some hundred bytes.
const MESSAGE: u64 = 1 << 20;

#[derive(Deserialize)]
struct Message {
    event: Option<String>,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    reason: Option<String>,
}

/// Follows QEMU's events until it ends.
#[derive(Debug)]
pub(crate) struct Events {
    thread: Option<JoinHandle<Option<String>>>,
}

impl Events {
    pub(crate) fn follow(mut stream: UnixStream) -> std::io::Result<Self> {
        // Events start once the client has left negotiation mode.
        stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
        let follow = move || {
            let mut reason = None;
            let mut reader = BufReader::new(stream);
            let mut text = Vec::new();
            loop {
                text.clear();
                match reader.by_ref().take(MESSAGE).read_until(b'\n', &mut text) {
                    Ok(0) | Err(_) => return reason,
                    Ok(_) => reason = shutdown_reason(&text).or(reason),
                }
            }
        };
        let thread = thread::Builder::new()
            .name("qmp".to_owned())
            .spawn(follow)?;
        Ok(Self {
            thread: Some(thread),
        })
    }

    /// The reason of the last `SHUTDOWN` event. Waits for QEMU's end.
    pub(crate) fn reason(&mut self) -> Option<String> {
        self.thread
            .take()
            .and_then(|thread| thread.join().ok().flatten())
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
    fn only_a_shutdown_event_has_a_reason() {
        let cases: &[(&str, Option<&str>)] = &[
            (
                r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#,
                Some("guest-shutdown"),
            ),
            (
                r#"{"event":"RESET","data":{"guest":true,"reason":"guest-reset"}}"#,
                None,
            ),
            (r#"{"return":{}}"#, None),
            (r#"{"QMP":{"version":{},"capabilities":["oob"]}}"#, None),
            ("not json", None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                shutdown_reason(text.as_bytes()).as_deref(),
                *expected,
                "{text}"
            );
        }
    }
}
