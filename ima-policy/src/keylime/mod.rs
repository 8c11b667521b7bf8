//! An agent of Keylime's, in push mode (API 3.0): it registers the device, and sends evidence to
//! a verifier, which judges it by its own policies.
//!
//! [`message`] has the messages, as Keylime 7.14.3 reads and writes them; [`Agent`] sends them.
//!
//! What it trusts: the verifier, whose certificate has to be signed by the authority that the
//! caller gives. Only its word refuses the device ([`Outcome::Refused`]): that it does not
//! answer, or does not know the device, says nothing. The registrar is not trusted: a credential
//! that is opened tells it whose key it has.

mod agent;
mod http;
pub mod message;

pub use agent::{Agent, AgentError, Outcome, Settings};
pub use http::{Client, HttpError};
