//! PolicyOR over more than eight branches.

use super::{Policy, PolicyError};
use crate::digest::Digest;

/// Fewest branches of one PolicyOR (Part 3, 23.6: TPM_RC_VALUE below).
pub const MIN_OR_BRANCHES: usize = 2;
/// Most branches of one PolicyOR (Part 2, 10.9.6, `TPML_DIGEST`).
pub const MAX_OR_BRANCHES: usize = 8;

/// A tree of PolicyOR commands: the branches in groups of at most eight, the
/// digests of these groups in groups again, until one is left.
///
/// The groups of a level are as even as can be, the longer ones first, so that
/// none has a single branch. A session that satisfies branch `n` runs one
/// PolicyOR per level: [`OrTree::path`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrTree {
    /// From the leaves up: the groups of each level. The last level has one.
    levels: Vec<Vec<Vec<Digest>>>,
    digest: Digest,
}

impl OrTree {
    /// Builds the tree.
    ///
    /// # Errors
    /// Fewer than two branches, or branches of different algorithms.
    pub fn new(branches: &[Digest]) -> Result<Self, PolicyError> {
        let Some(first) = branches.first().filter(|_| branches.len() >= MIN_OR_BRANCHES) else {
            return Err(PolicyError::Branches(branches.len()));
        };
        let mut levels = Vec::new();
        let mut row = branches.to_vec();
        while row.len() > 1 {
            let groups = grouped(&row);
            row = groups
                .iter()
                .map(|group| Ok(Policy::new(first.algorithm()).or(group)?.digest()))
                .collect::<Result<_, PolicyError>>()?;
            levels.push(groups);
        }
        let digest = row.first().copied().unwrap_or(*first);
        Ok(Self { levels, digest })
    }

    /// The digest at the root.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// The lists to hand to PolicyOR, in order, for a session that satisfies
    /// branch number `branch`. Empty if there is no such branch.
    #[must_use]
    pub fn path(&self, branch: usize) -> Vec<&[Digest]> {
        let mut position = branch;
        let mut path = Vec::new();
        for level in &self.levels {
            let mut first = 0;
            let found = level.iter().enumerate().find(|(_, group)| {
                let here = position < first + group.len();
                first += if here { 0 } else { group.len() };
                here
            });
            let Some((index, group)) = found else {
                return Vec::new();
            };
            path.push(group.as_slice());
            position = index;
        }
        path
    }
}

/// `row` in the fewest groups of at most eight, as even as can be.
fn grouped(row: &[Digest]) -> Vec<Vec<Digest>> {
    let count = row.len().div_ceil(MAX_OR_BRANCHES);
    let (size, longer) = (row.len() / count, row.len() % count);
    let mut rest = row;
    (0..count)
        .map(|group| {
            let (taken, left) = rest.split_at(size + usize::from(group < longer));
            rest = left;
            taken.to_vec()
        })
        .collect()
}
