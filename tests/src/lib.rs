//! What the tests on emulated boards share.
//!
//! It takes the image that `image-builder build` left in the checkout, makes
//! variants of it, has initramfs made by Debian's own tools ([`debian`], [`unpack`]), provisions
//! one device for all tests of a run ([`shared`]), keeps the number of boards that
//! are on at once within what two cores carry ([`slots`]), speaks to a device's TPM
//! without its board ([`host_tpm`]), reads device records as the one they are made for
//! ([`operator`]), log in over the network ([`operator_ssh`]), rewrites volumes as an attacker would ([`attacker`]), makes small
//! programs for boards ([`program`]), asks OP-TEE for applications ([`tee`]), waits ([`patience`]), and lays out
//! what is measured beside us ([`peers`]).
//!
//! It builds nothing, never touches the built image, and trusts that image no more
//! than a board would. Its results lie in `build/test`; what is left there after a
//! failure is for people.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail as tests do"
)]

pub mod attacker;
pub mod built;
pub mod debian;
pub mod host_tpm;
pub mod instants;
pub mod operator;
pub mod operator_ssh;
pub mod patience;
pub mod peers;
pub mod program;
pub mod shared;
pub mod slots;
pub mod tee;
pub mod unpack;
