//! Fuzz targets of delta-stream. The targets themselves are in `targets`, which the integration tests of the main
//! package compile too, to replay the corpus.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a target fails by panicking"
)]

mod allocator;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../it/forge.rs"]
mod forge;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../it/forge_part.rs"]
mod forge_part;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../it/made.rs"]
mod made;
mod seeding;
mod targets;

pub use seeding::{Seeds, seeds};

/// Most bytes that one input may make a target hold at once, beside what its own size allows.
const MOST_BYTES: usize = 64 << 20;

/// Runs one input through a target.
///
/// # Panics
/// If the target finds a fault, or more memory is taken than anything it reads may ask for.
pub fn run(target: &str, data: &[u8]) {
    let check = targets::ALL.iter().find(|(name, _)| *name == target).expect("a known target").1;
    let held = allocator::held();
    check(data);
    let peak = allocator::take_peak().saturating_sub(held);
    let most = MOST_BYTES + 64 * data.len();
    assert!(peak <= most, "{peak} bytes were held at once for an input of {}", data.len());
}
