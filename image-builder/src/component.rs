//! Components: what is built from source, from which inputs, and how.
