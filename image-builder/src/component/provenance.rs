//! Where the parts of an image that are built come from: sources and patches, for its bill
//! of materials.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::plan::{Context, series};
use super::{BuildError, Component};
use crate::sources::lock::{Sha256Hex, Source};

/// What a component was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    /// The component.
    pub component: Component,
    /// Its sources: packages of Debian, pinned.
    pub sources: Vec<Source>,
    /// Our patches to the first of them, in their order.
    pub patches: Vec<Patch>,
}

/// A patch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// Its path in the checkout.
    pub path: PathBuf,
    /// The hash of its text.
    pub sha256: Sha256Hex,
}

/// What every component that goes into an image was made from, those that it is linked
/// with included.
///
/// # Errors
/// If a source is not locked or a patch cannot be read.
pub fn of_image(context: &Context) -> Result<Vec<Provenance>, BuildError> {
    let mut components = BTreeSet::new();
    let mut open = Component::of_image(&context.target);
    while let Some(component) = open.pop() {
        if components.insert(component) {
            open.extend(component.needs(&context.target));
        }
    }
    components.into_iter().map(|component| of_component(context, component)).collect()
}

fn of_component(context: &Context, component: Component) -> Result<Provenance, BuildError> {
    let sources = component.sources(&context.target);
    let sources = sources
        .into_iter()
        .map(|name| Ok(context.lock.source(name)?.clone()))
        .collect::<Result<Vec<_>, BuildError>>()?;
    let mut patches = Vec::new();
    if let Some(dir) = component.spec().series {
        let input = |path: PathBuf| {
            move |source| BuildError::Input { component, path: path.clone(), source }
        };
        let full = context.tree.join(dir);
        for name in series(&full).map_err(input(full.join("series")))? {
            let path = full.join(&name);
            let text = std::fs::read(&path).map_err(input(path.clone()))?;
            patches
                .push(Patch { path: PathBuf::from(dir).join(name), sha256: Sha256Hex::of(&text) });
        }
    }
    Ok(Provenance { component, sources, patches })
}
