//! Reads a flattened device tree, the container of a FIT.
//!
//! The bytes come from a card and are not trusted: whatever is wrong with them
//! gives an error, and nothing is allocated for what they claim.
//! Layout: Devicetree Specification 0.4, chapter 5.

/// Where the header's fields lie (5.2).
const TOTAL_SIZE: usize = 4;
const OFF_STRUCT: usize = 8;
const OFF_STRINGS: usize = 12;
const LAST_COMPATIBLE: usize = 24;
const SIZE_STRINGS: usize = 32;
const SIZE_STRUCT: usize = 36;
const MAGIC: u32 = 0xd00d_feed;

/// The layout that version 17 and everything compatible to 16 shares (5.2).
const VERSION: u32 = 16;

/// Tokens of the structure block (5.4.1).
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;

/// Nodes within nodes; a FIT has four levels.
const MAX_DEPTH: usize = 16;

/// Why bytes are no device tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FdtError {
    /// No header.
    #[error("it has no device tree header")]
    NoHeader,
    /// A version that nothing here can read.
    #[error("its layout has version {0}, only 16 and compatible ones are known")]
    Version(u32),
    /// A part lies outside the bytes there are.
    #[error("it is cut short or its {0} lies outside")]
    Bounds(&'static str),
    /// The structure block is broken.
    #[error("its structure is broken at byte {0}")]
    Structure(usize),
}

/// A device tree that was read once from end to end.
#[derive(Debug, Clone, Copy)]
pub struct Fdt<'a> {
    structure: &'a [u8],
    strings: &'a [u8],
    total: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let end = at.checked_add(4)?;
    Some(u32::from_be_bytes(bytes.get(at..end)?.try_into().ok()?))
}

fn text(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    rest.get(..rest.iter().position(|b| *b == 0)?)
}

enum Step<'a> {
    Begin(&'a [u8]),
    Property(&'a [u8], &'a [u8]),
    End,
}

impl<'a> Fdt<'a> {
    /// Checks header and structure.
    ///
    /// # Errors
    /// If any part of it is not as the specification says.
    pub fn new(bytes: &'a [u8]) -> Result<Self, FdtError> {
        if word(bytes, 0) != Some(MAGIC) {
            return Err(FdtError::NoHeader);
        }
        let field = |at| {
            word(bytes, at).and_then(|v| usize::try_from(v).ok()).ok_or(FdtError::Bounds("header"))
        };
        match word(bytes, LAST_COMPATIBLE) {
            Some(VERSION) => {}
            Some(other) => return Err(FdtError::Version(other)),
            None => return Err(FdtError::Bounds("header")),
        }
        let total = field(TOTAL_SIZE)?;
        let whole = bytes.get(..total).ok_or(FdtError::Bounds("total size"))?;
        let block = |at, size, what| {
            let start = field(at)?;
            let end = start.checked_add(field(size)?).ok_or(FdtError::Bounds(what))?;
            whole.get(start..end).ok_or(FdtError::Bounds(what))
        };
        let tree = Self {
            structure: block(OFF_STRUCT, SIZE_STRUCT, "structure block")?,
            strings: block(OFF_STRINGS, SIZE_STRINGS, "strings block")?,
            total,
        };
        tree.check()?;
        Ok(tree)
    }

    /// Its size in bytes, as its header says and its bytes allow.
    pub fn total_size(&self) -> usize {
        self.total
    }

    /// The value of `property` of the node at `path` (`/images/kernel`), byte
    /// for byte. The first of several is taken, as libfdt does.
    pub fn property(&self, path: &str, property: &str) -> Option<&'a [u8]> {
        let wanted: Vec<&[u8]> = parts(path).map(str::as_bytes).collect();
        // The nodes around the present place, without the root's empty name.
        let mut here: Vec<&[u8]> = Vec::new();
        let (mut at, mut depth) = (0, 0_usize);
        while let Ok(Some((step, next))) = self.step(at) {
            match step {
                Step::Begin(name) => {
                    if depth > 0 {
                        here.push(name);
                    }
                    depth += 1;
                }
                Step::Property(name, value) => {
                    if here == wanted && name == property.as_bytes() {
                        return Some(value);
                    }
                }
                // Of several nodes with one name the first counts: once a node
                // on the path has been left, no other may stand in for it.
                Step::End if here.is_empty() || wanted.starts_with(&here) => return None,
                Step::End => {
                    here.pop();
                }
            }
            at = next;
        }
        None
    }

    /// A property that holds one text (final NUL in the tree, not in the
    /// result).
    pub fn text(&self, path: &str, property: &str) -> Option<&'a str> {
        let value = self.property(path, property)?;
        let (last, text) = value.split_last()?;
        (*last == 0 && !text.contains(&0)).then(|| std::str::from_utf8(text).ok()).flatten()
    }

    /// Walks the whole structure, so that later walks meet nothing new.
    fn check(&self) -> Result<(), FdtError> {
        let (mut at, mut depth) = (0, 0_usize);
        loop {
            let broken = FdtError::Structure(at);
            let Some((step, next)) = self.step(at)? else {
                return Err(broken);
            };
            match step {
                Step::Begin(_) if depth == MAX_DEPTH => return Err(broken),
                Step::Begin(_) => depth += 1,
                Step::Property(..) if depth == 0 => return Err(broken),
                Step::Property(..) => {}
                Step::End => {
                    depth = depth.checked_sub(1).ok_or(broken)?;
                    if depth == 0 {
                        return Ok(());
                    }
                }
            }
            at = next;
        }
    }

    /// The token at `at`, and where the next one lies. `None` after the last.
    fn step(&self, mut at: usize) -> Result<Option<(Step<'a>, usize)>, FdtError> {
        while word(self.structure, at) == Some(NOP) {
            at += 4;
        }
        let broken = || FdtError::Structure(at);
        let align = |end: usize| end.next_multiple_of(4);
        let Some(token) = word(self.structure, at) else {
            return Ok(None);
        };
        match token {
            BEGIN_NODE => {
                let name = text(self.structure, at + 4).ok_or_else(broken)?;
                Ok(Some((Step::Begin(name), align(at + 4 + name.len() + 1))))
            }
            PROP => {
                let size = word(self.structure, at + 4).and_then(|v| usize::try_from(v).ok());
                let name = word(self.structure, at + 8).and_then(|v| usize::try_from(v).ok());
                let (Some(size), Some(name)) = (size, name) else {
                    return Err(broken());
                };
                let start = at + 12;
                let end = start.checked_add(size).ok_or_else(broken)?;
                let value = self.structure.get(start..end).ok_or_else(broken)?;
                let name = text(self.strings, name).ok_or_else(broken)?;
                Ok(Some((Step::Property(name, value), align(end))))
            }
            END_NODE => Ok(Some((Step::End, at + 4))),
            _ => Err(broken()),
        }
    }
}

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

#[cfg(test)]
pub(crate) mod tests;
