//! The command `pcr-measure`.

fn main() {}
