//! `predict`.

use std::path::Path;

use anyhow::Result;
use pcr_measure::{PcrBank, PcrSelection, Sha256Digest, policy};
use serde::Serialize;

use super::{Answer, Format, bank_text, input, json};

#[derive(Serialize)]
struct PredictJson<'a> {
    image: &'a str,
    board: &'a str,
    bank: &'static str,
    pcrs: PcrBank,
    seal: PcrSelection,
    policy: Sha256Digest,
}

/// The values that a manifest leads to, and the policy that seals to them.
pub(super) fn predict(path: &Path, format: Format) -> Result<Answer> {
    let manifest = input::manifest(path)?;
    let pcrs = manifest.predict();
    if format == Format::Text {
        return Ok(Answer::yes(bank_text(&pcrs)));
    }
    let policy = policy::pcr_digest(manifest.seal(), &manifest.sealed_values())?;
    Ok(Answer::yes(json(&PredictJson {
        image: manifest.image(),
        board: manifest.board(),
        bank: "sha256",
        pcrs,
        seal: *manifest.seal(),
        policy,
    })?))
}
