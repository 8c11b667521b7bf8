//! What the agent does, in order.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use pcr_measure::digest::Algorithm;
use pcr_measure::pcr::{PcrError, PcrIndex, PcrSelection};
use pcr_measure::quote::to_tools_values;
use pcr_measure::tpm::{Tpm, TpmError};
use serde_json::Value;

use crate::attest::device::sized;

use super::http::{Answer, Client, Form, HttpError};
use super::message::{self, MessageError, Offer, Wanted};

/// How long a verdict may take after the evidence was received.
const VERDICT: Duration = Duration::from_secs(120);
/// Between two questions for it.
const PAUSE: Duration = Duration::from_millis(500);
/// Seconds until the next round where the verifier does not say.
const INTERVAL: u64 = 60;
/// Largest event log that is sent, in bytes.
const MAX_LOG: u64 = 2 << 20;
/// Longest line of a list that is read, in bytes: a policy that was measured as a buffer stands
/// in one, in hexadecimal digits.
const MAX_LINE: u64 = 33 << 20;

/// Why a round gave no verdict.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The network, or a certificate.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// An answer that makes no sense.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// Not done.
    #[error("{what}: the answer is {status}{}{reason}", if reason.is_empty() { "" } else { ": " })]
    Answer {
        /// What was asked.
        what: &'static str,
        /// The status of HTTP.
        status: u16,
        /// As far as it was told.
        reason: String,
    },
    /// A file.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, io::Error),
    /// A name that Keylime's JSON cannot carry.
    #[error("entry {0} of the list is no UTF-8, and cannot be sent to Keylime")]
    NotText(u64),
    /// PCRs that cannot be.
    #[error("the verifier asks for a quote that cannot be: {0}")]
    Pcr(#[from] PcrError),
    /// The verifier does not know the device.
    #[error(
        "the verifier does not take the device's proof: enrol it there (keylime_tenant -c add --push-model)"
    )]
    NotEnrolled,
}

/// What came of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The verifier takes the device for a healthy one.
    Accepted {
        /// Until it wants to be told again.
        next: Duration,
        /// Entries of IMA's list that it had not seen before.
        entries: u64,
    },
    /// The verifier refuses the device. It says so itself, by a connection that its authority
    /// vouches for.
    Refused {
        /// Its words.
        reason: String,
    },
    /// The verifier wants to be asked later.
    Later {
        /// When.
        after: Duration,
    },
}

/// How the device is known, and what it shows.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name at registrar and verifier: letters, digits, `-`, `_` and `.`.
    pub id: String,
    /// The registrar, as `http://host:8890`.
    pub registrar: String,
    /// The verifier, as `https://host:8881`.
    pub verifier: String,
    /// Persistent handle of the attestation key: RSA, since push mode of Keylime 7.14.3 takes no
    /// other (`TPMEngine._validate_tpm_quote_items` looks for schemes that begin with the name of
    /// the key's algorithm, and none begins with `ecc`).
    pub ak: u32,
    /// IMA's list as text.
    pub list: PathBuf,
    /// The firmware's event log; none is offered if there is no such file.
    pub event_log: PathBuf,
    /// When the system booted, in seconds since 1970; the same for all of a boot.
    pub boot_time: u64,
}

/// An agent.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    client: Client,
    token: Option<String>,
}

impl Agent {
    /// An agent that has no session yet.
    #[must_use]
    pub const fn new(settings: Settings, client: Client) -> Self {
        Self { settings, client, token: None }
    }

    /// Registers the device: its keys, and the proof that they are of one TPM. Safe to repeat.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn register(&self, tpm: &mut Tpm) -> Result<(), AgentError> {
        let Settings { id, registrar, ak, .. } = &self.settings;
        let attestation = tpm.ensure_rsa_ak(*ak)?;
        let endorsement = tpm.ek_public()?;
        let certificate = tpm.ek_certificate()?;
        let body = message::registration(
            &sized(&endorsement),
            &sized(&attestation),
            certificate.as_deref(),
        );
        let url = format!("{registrar}/v2.6/agents/{id}");
        let answer = self.client.send("POST", &url, None, Some((Form::Plain, &body)))?;
        let credential = message::registered(&done("registering the device", answer)?)?;
        let opened = tpm.activate_credential(*ak, &credential.id_object, &credential.secret)?;
        let body = message::activation(id, &opened)?;
        let url = format!("{url}/activate");
        let answer = self.client.send("PUT", &url, None, Some((Form::Plain, &body)))?;
        done("proving whose the attestation key is", answer).map(drop)
    }

    /// Attests the device once, and waits for the verdict.
    ///
    /// # Errors
    /// [`AgentError`]: nothing is known of what the verifier thinks.
    pub fn attest(&mut self, tpm: &mut Tpm) -> Result<Outcome, AgentError> {
        let before = match self.status(tpm)? {
            Ok(status) => status,
            Err(outcome) => return Ok(outcome),
        };
        let event_log = self.event_log()?;
        let offer = message::offer(&Offer {
            boot_time: self.settings.boot_time,
            entries: self.entries()?,
            has_event_log: event_log.is_some(),
        });
        let answer = self.authorized(tpm, "POST", "/v3.0/", "/attestations", Some(&offer))?;
        let body = match answer.status {
            403 if message::is_disabled(&answer.body) => return Ok(refused(&answer)),
            429 | 503 => return Ok(later(&answer)),
            _ => done("offering evidence", answer)?,
        };
        let request = message::requested(&body)?;
        let mut sent = 0;
        let collected = self.collect(tpm, &request.wanted, event_log.as_deref(), &mut sent)?;
        let place = format!("/attestations/{}", request.index);
        let evidence = message::evidence(&collected);
        let answer = self.authorized(tpm, "PATCH", "/v3.0/", &place, Some(&evidence))?;
        let next = match answer.status {
            429 | 503 => return Ok(later(&answer)),
            _ => message::next(&done("sending evidence", answer)?),
        };
        let end = Instant::now() + VERDICT;
        loop {
            let now = match self.status(tpm)? {
                Ok(status) => status,
                Err(outcome) => return Ok(outcome),
            };
            if now.attestation_status == "PASS" && now.attestation_count > before.attestation_count
            {
                let next = Duration::from_secs(next.unwrap_or(INTERVAL));
                return Ok(Outcome::Accepted { next, entries: sent });
            }
            if Instant::now() > end {
                return Ok(Outcome::Later { after: Duration::from_secs(INTERVAL) });
            }
            thread::sleep(PAUSE);
        }
    }

    /// What the verifier thinks of the device, or what follows from it.
    fn status(&mut self, tpm: &mut Tpm) -> Result<Result<message::Status, Outcome>, AgentError> {
        let answer = self.authorized(tpm, "GET", "/v2.6/", "", None)?;
        if answer.status == 429 || answer.status == 503 {
            return Ok(Err(later(&answer)));
        }
        let status = message::status(&done("asking for the verdict", answer)?)?;
        if status.attestation_status == "FAIL" {
            let reason = "the verifier's word on the device is FAIL".to_owned();
            return Ok(Err(Outcome::Refused { reason }));
        }
        Ok(Ok(status))
    }

    /// A request in a session; where that has ended, in a new one.
    fn authorized(
        &mut self,
        tpm: &mut Tpm,
        method: &str,
        version: &str,
        place: &str,
        body: Option<&Value>,
    ) -> Result<Answer, AgentError> {
        let Settings { verifier, id, .. } = &self.settings;
        let url = format!("{verifier}{version}agents/{id}{place}");
        let body = body.map(|body| (Form::Api, body));
        if let Some(token) = &self.token {
            let answer = self.client.send(method, &url, Some(token), body)?;
            // Expired, or of no session that the verifier knows.
            let has_ended = match answer.status {
                401 => true,
                403 => !message::is_disabled(&answer.body),
                _ => false,
            };
            if !has_ended {
                return Ok(answer);
            }
        }
        let token = self.session(tpm)?;
        let answer = self.client.send(method, &url, Some(&token), body);
        self.token = Some(token);
        Ok(answer?)
    }

    /// Opens a session.
    fn session(&self, tpm: &mut Tpm) -> Result<String, AgentError> {
        let Settings { id, verifier, ak, .. } = &self.settings;
        let body = message::session(id);
        let url = format!("{verifier}/v3.0/sessions");
        let answer = self.client.send("POST", &url, None, Some((Form::Plain, &body)))?;
        let session = message::session_opened(&done("opening a session", answer)?)?;
        let is_name = session.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_name {
            return Err(MessageError::Unknown("a session of no name".to_owned()).into());
        }
        let certified = tpm.certify_itself(*ak, &session.challenge)?;
        let body = message::proof(id, &session, &certified.message, &certified.signature);
        let url = format!("{url}/{}", session.id);
        let answer = self.client.send("PATCH", &url, None, Some((Form::Plain, &body)))?;
        if answer.status == 401 {
            return Err(AgentError::NotEnrolled);
        }
        message::token(&done("proving the attestation key", answer)?)?
            .ok_or(AgentError::NotEnrolled)
    }

    fn collect(
        &self,
        tpm: &mut Tpm,
        wanted: &[Wanted],
        event_log: Option<&[u8]>,
        sent: &mut u64,
    ) -> Result<Vec<Value>, AgentError> {
        // The quote is asked for first; the list is read after it, whatever the order is.
        let mut quote = None;
        for wanted in wanted {
            if let Wanted::Quote { challenge, pcrs } = wanted {
                let pcrs: Vec<_> =
                    pcrs.iter().map(|pcr| PcrIndex::new(*pcr)).collect::<Result<_, _>>()?;
                let pcrs = PcrSelection::new(Algorithm::Sha256, pcrs)?;
                let made = tpm.quote(self.settings.ak, challenge, &[pcrs])?;
                let values = to_tools_values(&made.values)?;
                quote = Some(message::quote(&made.message, &made.signature, &values));
            }
        }
        let each = |wanted: &Wanted| match wanted {
            Wanted::Quote { .. } => Ok(quote.clone().unwrap_or_default()),
            Wanted::List { offset } => {
                let (entries, lines) = self.lines(*offset)?;
                *sent = entries;
                Ok(message::list(entries, &lines))
            }
            Wanted::EventLog => Ok(message::event_log(event_log.unwrap_or_default())),
        };
        wanted.iter().map(each).collect()
    }

    /// How many entries the list has.
    fn entries(&self) -> Result<u64, AgentError> {
        let mut entries = 0;
        each_line(&self.settings.list, |_| {
            entries += 1;
            Ok(())
        })?;
        Ok(entries)
    }

    /// The entries behind `offset`.
    fn lines(&self, offset: u64) -> Result<(u64, String), AgentError> {
        let (mut lines, mut entry) = (String::new(), 0);
        each_line(&self.settings.list, |line| {
            entry += 1;
            if entry > offset {
                lines.push_str(str::from_utf8(line).map_err(|_| AgentError::NotText(entry))?);
            }
            Ok(())
        })?;
        Ok((entry.saturating_sub(offset), lines))
    }

    fn event_log(&self) -> Result<Option<Vec<u8>>, AgentError> {
        let path = &self.settings.event_log;
        let mut log = Vec::new();
        match File::open(path).and_then(|file| file.take(MAX_LOG).read_to_end(&mut log)) {
            Ok(_) => Ok(Some(log).filter(|log| !log.is_empty())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(AgentError::Read(path.clone(), error)),
        }
    }
}

/// Reads whole lines; one that has no end yet is none.
fn each_line(
    path: &Path,
    mut each: impl FnMut(&[u8]) -> Result<(), AgentError>,
) -> Result<(), AgentError> {
    let failed = |error| AgentError::Read(path.to_owned(), error);
    let mut reader = BufReader::with_capacity(1 << 16, File::open(path).map_err(failed)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(failed)?;
        if !line.ends_with(b"\n") {
            return Ok(());
        }
        each(&line)?;
    }
}

/// The body of an answer that says yes.
fn done(what: &'static str, answer: Answer) -> Result<Vec<u8>, AgentError> {
    match answer.status {
        200..=299 => Ok(answer.body),
        status => Err(AgentError::Answer { what, status, reason: message::reason(&answer.body) }),
    }
}

fn refused(answer: &Answer) -> Outcome {
    Outcome::Refused { reason: message::reason(&answer.body) }
}

fn later(answer: &Answer) -> Outcome {
    Outcome::Later { after: Duration::from_secs(answer.retry_after.unwrap_or(INTERVAL)) }
}
