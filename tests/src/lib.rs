//! Integration tests: emulated boards, attacks, interop.
