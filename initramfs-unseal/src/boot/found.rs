//! What is found before anything is decided: the volume, and the TPM's index.

use crate::config::Config;
use crate::flow::{self, IndexState, RootFound};
use crate::luks::Volume;
use crate::token::{Phase, Token};
use crate::tpm::{Index, Tpm, TpmError};
use std::path::Path;

/// The root, with what belongs to it.
pub(super) struct Found {
    pub(super) root: RootFound,
    pub(super) volume: Option<Volume>,
    pub(super) token: Option<Token>,
    pub(super) refusal: Option<String>,
}

impl Found {
    pub(super) fn only(root: RootFound) -> Self {
        Self { root, volume: None, token: None, refusal: None }
    }

    pub(super) fn luks(path: &Path, data_offset: u64) -> Self {
        let refused = |why: String| Self { refusal: Some(why), ..Self::only(RootFound::BadHeader) };
        let mut volume = match Volume::load(path) {
            Ok(volume) => volume,
            Err(e) => {
                return refused(format!(
                    "the LUKS2 header is damaged or was tampered with ({e}): write the image to the card again"
                ));
            }
        };
        match volume.check(data_offset) {
            Ok(Ok(facts)) => {
                let token = volume.metadata().ok().and_then(|m| Token::find(&m).ok()).map(|t| t.1);
                let phase = token.as_ref().map(|t| t.phase);
                let root = RootFound::Luks { reencrypting: facts.reencrypting, token: phase };
                Self { root, volume: Some(volume), token, refusal: None }
            }
            Ok(Err(refusal)) => refused(refusal.to_string()),
            Err(e) => refused(e.to_string()),
        }
    }
}

/// The index that holds the secret of a sealed root, and how far it is. Where
/// provisioning may follow, both count ([`flow::of_both`]).
pub(super) fn look_at_index(
    tpm: &mut Tpm,
    config: &Config,
    token: Option<&Token>,
) -> Result<(IndexState, Option<Index>), TpmError> {
    let state = |index: &Option<Index>| index.as_ref().map_or(IndexState::Missing, Index::state);
    let sealed = token.filter(|token| token.phase == Phase::Sealed);
    if let Some((token, place)) = sealed.and_then(|t| Some((t, t.place(config.indices())?))) {
        let index = match token.guard(config.signed.as_ref()) {
            Ok(guard) => tpm.index_of(place.nv_index, &guard)?,
            Err(_) => tpm.index(place.nv_index)?,
        };
        return Ok((state(&index), index));
    }
    let [index, spare] = config.indices().map(|index| tpm.index(index));
    let (index, spare) = (index?, spare?);
    Ok((flow::of_both(state(&index), state(&spare)), index))
}
