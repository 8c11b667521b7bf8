//! Other artifacts in the place of those that a manifest was made for.

use super::build::Measurement;
use super::uboot::component;
use super::{MAX_NOTE, Manifest, ManifestError, ManifestEvent};
use crate::text::{is_printable, printable};

/// Why an artifact cannot stand for a component.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplaceError {
    /// The manifest has no such component.
    #[error("the manifest has no component {component:?}; it has {}", .has.join(", "))]
    NoSuchComponent {
        /// What was asked for (escaped and shortened).
        component: String,
        /// The components there are, in the manifest's order, each once.
        has: Vec<String>,
    },
    /// A file for a component that is text.
    #[error("{component:?} is text that is measured with a NUL behind it: give it as text")]
    IsText {
        /// The component.
        component: String,
    },
    /// Text for a component that is a file.
    #[error("{component:?} is no text: give the file that holds what is measured")]
    IsNoText {
        /// The component.
        component: String,
    },
    /// What comes out is no manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl ManifestEvent {
    /// Whether what is measured is a string with a NUL behind it: U-Boot's
    /// version, the command line, and what the note proves to be one.
    #[must_use]
    pub fn is_text(&self) -> bool {
        let measured = Measurement { digest: self.digest, size: self.size };
        [component::UBOOT_VERSION, component::COMMAND_LINE].contains(&self.component.as_str())
            || measured == Measurement::of_c_string(&self.note)
    }
}

impl Manifest {
    /// The manifest of the same boot with `measured` in the place of
    /// `component`, in every PCR that it is measured into. The note of the old
    /// artifact goes.
    ///
    /// # Errors
    /// There is no such component, or it is text.
    pub fn replace(&self, component: &str, measured: Measurement) -> Result<Self, ReplaceError> {
        if self.named(component)?.is_text() {
            return Err(ReplaceError::IsText { component: component.to_owned() });
        }
        self.replaced(component, measured, "")
    }

    /// The manifest of the same boot with `text` in the place of the text
    /// `component`: measured as U-Boot does, with a NUL behind it.
    ///
    /// # Errors
    /// There is no such component, or it is no text.
    pub fn replace_text(&self, component: &str, text: &str) -> Result<Self, ReplaceError> {
        if !self.named(component)?.is_text() {
            return Err(ReplaceError::IsNoText { component: component.to_owned() });
        }
        // What a note cannot hold is measured all the same.
        let fits = text.len() <= MAX_NOTE && is_printable(text);
        let note = if fits { text } else { "" };
        self.replaced(component, Measurement::of_c_string(text), note)
    }

    fn named(&self, component: &str) -> Result<&ManifestEvent, ReplaceError> {
        self.events.iter().find(|event| event.component == component).ok_or_else(|| {
            let mut has: Vec<String> = Vec::new();
            for event in &self.events {
                if !has.contains(&event.component) {
                    has.push(event.component.clone());
                }
            }
            ReplaceError::NoSuchComponent { component: printable(component), has }
        })
    }

    fn replaced(
        &self,
        component: &str,
        measured: Measurement,
        note: &str,
    ) -> Result<Self, ReplaceError> {
        let mut events = self.events.clone();
        for event in events.iter_mut().filter(|event| event.component == component) {
            event.digest = measured.digest;
            event.size = measured.size;
            note.clone_into(&mut event.note);
        }
        let (image, board) = (self.image.clone(), self.board.clone());
        Ok(Self::checked(image, board, events, self.seal)?)
    }
}
