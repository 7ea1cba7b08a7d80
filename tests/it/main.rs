//! The integration tests, as one binary: one link instead of one for each theme.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

// Made-up pairs in temporary directories, runs of the real binary, its JSON.
mod support;

// The command line: exit codes, what goes to which stream, what is refused.
mod cli;
