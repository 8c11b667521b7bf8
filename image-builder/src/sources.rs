//! Pinned sources: the lock file, fetching, verification.
