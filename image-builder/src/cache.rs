//! The cache: one directory per built thing, named by the hash of its inputs.
