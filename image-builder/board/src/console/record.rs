//! What a serial line has printed so far: bytes, lines, times.

use std::{borrow::Cow, time::Duration};

use regex::bytes::Regex;

/// The most that is kept of one boot's output. A boot prints some 100 KiB; what a
/// guest prints beyond this is read and dropped.
const KEPT: usize = 16 << 20;

/// How many of the last lines an error shows.
const TAIL: usize = 12;

/// One line as printed, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When its first byte came, since power-on.
    pub at: Duration,
    /// Its text. Bytes that are no UTF-8 are replaced.
    pub text: String,
}

/// What a wait found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Which of the patterns, counted from 0.
    pub which: usize,
    /// When the line that holds the start of the match began.
    pub at: Duration,
    /// The first group of the pattern, or the whole match when it has none.
    pub text: String,
}

/// Tells what must not stand in a log: a board shows its recovery key once, on the
/// console, and nowhere else.
#[derive(Debug, Clone, Default)]
pub struct Secret(Option<regex::Regex>);

impl Secret {
    /// Whatever the first group of `pattern` matches.
    ///
    /// # Errors
    /// When `pattern` is not a regular expression.
    pub fn matching(pattern: &str) -> Result<Self, regex::Error> {
        regex::Regex::new(pattern).map(|pattern| Self(Some(pattern)))
    }

    /// The text with its secrets replaced by stars.
    #[must_use]
    pub fn blacken<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let Some(pattern) = &self.0 else {
            return Cow::Borrowed(text);
        };
        pattern.replace_all(text, |groups: &regex::Captures<'_>| {
            let whole = groups.get(0).map_or("", |m| m.as_str());
            // A pattern with alternatives: those without a group are secret whole.
            let secret = groups.get(1).map_or(whole, |m| m.as_str());
            whole.replace(secret, "********")
        })
    }
}

/// The last line's terminator so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    CarriageReturn,
    Closed,
}

/// Bytes into lines. A carriage return alone ends a line too: progress is printed
/// so, and every state of it is worth a time stamp.
#[derive(Debug)]
pub(super) struct Record {
    /// All text, lines separated by `\n`.
    text: Vec<u8>,
    /// Where each line starts in `text`, and when it came.
    starts: Vec<(usize, Duration)>,
    end: End,
    /// The board is off: nothing more will come.
    pub(super) closed: bool,
}

impl Default for Record {
    fn default() -> Self {
        Self { text: Vec::new(), starts: Vec::new(), end: End::Closed, closed: false }
    }
}

impl Record {
    pub(super) fn feed(&mut self, bytes: &[u8], now: Duration) {
        for &byte in bytes {
            if self.text.len() >= KEPT {
                return;
            }
            match byte {
                b'\n' => {
                    self.open(now);
                    self.end = End::Closed;
                    self.text.push(b'\n');
                }
                b'\r' => {
                    if self.end == End::Open {
                        self.end = End::CarriageReturn;
                    }
                }
                _ => {
                    if self.end == End::CarriageReturn {
                        self.text.push(b'\n');
                        self.end = End::Closed;
                    }
                    self.open(now);
                    self.text.push(byte);
                }
            }
        }
    }

    fn open(&mut self, now: Duration) {
        if self.end == End::Closed {
            self.starts.push((self.text.len(), now));
            self.end = End::Open;
        }
    }

    /// How many lines there are, the last one complete or not.
    pub(super) fn count(&self) -> usize {
        self.starts.len()
    }

    /// How many lines are complete.
    pub(super) fn whole(&self) -> usize {
        self.starts.len() - usize::from(self.end != End::Closed)
    }

    pub(super) fn lines(&self) -> impl DoubleEndedIterator<Item = Line> {
        self.starts.iter().enumerate().map(|(i, &(start, at))| {
            let end = self.starts.get(i + 1).map_or(self.text.len(), |&(next, _)| next);
            let text = self.text.get(start..end).unwrap_or_default();
            let text = text.strip_suffix(b"\n").unwrap_or(text);
            Line { at, text: String::from_utf8_lossy(text).into_owned() }
        })
    }

    fn time_of(&self, offset: usize) -> Duration {
        let index = self.starts.partition_point(|&(start, _)| start <= offset);
        index.checked_sub(1).and_then(|i| self.starts.get(i)).map_or(Duration::ZERO, |s| s.1)
    }

    pub(super) fn tail(&self, secret: &Secret) -> String {
        let mut lines: Vec<_> = self.lines().rev().take(TAIL).collect();
        lines.reverse();
        let lines: Vec<_> = lines
            .iter()
            .map(|l| {
                format!("  [{:8.3}] {}", l.at.as_secs_f64(), secret.blacken(&l.text).escape_debug())
            })
            .collect();
        lines.join("\n")
    }

    pub(super) fn search(&self, patterns: &[Regex], from: usize) -> Option<(usize, usize, Found)> {
        patterns
            .iter()
            .enumerate()
            .filter_map(|(which, pattern)| {
                let groups = pattern.captures_at(&self.text, from)?;
                let whole = groups.get(0)?;
                let part = groups.get(1).unwrap_or(whole);
                let text = String::from_utf8_lossy(part.as_bytes()).into_owned();
                let at = self.time_of(whole.start());
                Some((whole.start(), whole.end(), Found { which, at, text }))
            })
            .min_by_key(|(start, _, _)| *start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn bytes_become_lines() {
        type Lines<'a> = &'a [(u64, &'a str)];
        let cases: &[(&[&str], Lines<'_>)] = &[
            (&["a\r\nb"], &[(0, "a"), (0, "b")]),
            (&["a", "b\n", "c"], &[(0, "ab"), (2, "c")]),
            (&["a\r", "\nb"], &[(0, "a"), (1, "b")]),
            (&["1 %\r", "2 %\r", "done\n"], &[(0, "1 %"), (1, "2 %"), (2, "done")]),
            (&["\n\n", "x"], &[(0, ""), (0, ""), (1, "x")]),
            (&["\r\r\nx"], &[(0, ""), (0, "x")]),
            (&[], &[]),
        ];
        for (pieces, expected) in cases {
            let mut record = Record::default();
            for (i, piece) in pieces.iter().enumerate() {
                record.feed(piece.as_bytes(), ms(i as u64));
            }
            let lines: Vec<_> = record.lines().map(|l| (l.at, l.text)).collect();
            let expected: Vec<_> = expected.iter().map(|(t, s)| (ms(*t), s.to_string())).collect();
            assert_eq!(lines, expected, "{pieces:?}");
        }
    }

    #[test]
    fn output_without_end_is_kept_within_the_limit() {
        let mut record = Record::default();
        for _ in 0..20 {
            record.feed(&vec![b'x'; 1 << 20], ms(0));
        }
        assert_eq!(record.text.len(), KEPT);
    }
}
