//! HTTP, by a library.

use std::time::Duration;

use serde_json::Value;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

/// How long a request may take, with its answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 4 << 20;

/// What goes wrong on the way.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// No answer, or not from whom it should be.
    #[error("{url}: {cause}")]
    Request {
        /// Whom was asked.
        url: String,
        /// What happened.
        cause: Box<ureq::Error>,
    },
    /// The authority's certificates.
    #[error("the authority has no certificate in PEM form")]
    Authority,
    /// A request that cannot be written.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// Who asks, and whom it believes.
#[derive(Debug)]
pub struct Client {
    agent: ureq::Agent,
}

/// An answer, of whatever status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Seconds, where the other side says when to come again.
    pub(super) retry_after: Option<u64>,
    pub(super) body: Vec<u8>,
}

/// What kind of JSON a body is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    Plain,
    /// JSON:API 1.1.
    Api,
}

impl Form {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "application/json",
            Self::Api => "application/vnd.api+json",
        }
    }
}

impl Client {
    /// A client that believes servers whose certificates these authorities (PEM) signed, and no
    /// others.
    ///
    /// # Errors
    /// [`HttpError::Authority`].
    pub fn new(authorities: &[u8]) -> Result<Self, HttpError> {
        let certificates: Vec<Certificate<'static>> = parse_pem(authorities)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        if certificates.is_empty() {
            return Err(HttpError::Authority);
        }
        let tls = TlsConfig::builder()
            .provider(TlsProvider::NativeTls)
            .root_certs(RootCerts::from(certificates))
            .build();
        let config = ureq::Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build();
        Ok(Self { agent: config.into() })
    }

    pub(super) fn send(
        &self,
        method: &str,
        url: &str,
        token: Option<&str>,
        body: Option<(Form, &Value)>,
    ) -> Result<Answer, HttpError> {
        let failed =
            |cause: ureq::Error| HttpError::Request { url: url.to_owned(), cause: Box::new(cause) };
        let (form, bytes) = match body {
            Some((form, value)) => (form, serde_json::to_vec(value)?),
            None => (Form::Plain, Vec::new()),
        };
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let answer = match body {
            Some(_) => request
                .header("Content-Type", form.name())
                .body(bytes)
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(request)),
            None => request
                .body(())
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(request)),
        };
        let mut answer = answer.map_err(failed)?;
        let retry_after = answer.headers().get("Retry-After");
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        Ok(Answer { status, retry_after, body: body.map_err(failed)? })
    }
}
