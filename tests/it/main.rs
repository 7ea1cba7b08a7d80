//! The integration tests, as one binary: one link instead of one for each theme.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

// Made-up pairs in temporary directories, runs of the real binary, its JSON.
mod support;

// Every fault of an archive is named; what is whole of a damaged one is saved.
mod recover;
mod verify;

// Parity files: burnt ranges come back.
mod repair;

// The command line: exit codes, what goes to which stream, what is refused.
mod cli;

// The page of `report`.
mod outputs;
mod page;

// What a terminal shows.
mod terminal;

// Checkpoints written by hand, random values, directories compared.
mod made;

// Archives and parts taken apart and put together again with right checksums.
mod forge;
mod forge_part;

// What is compressed comes back.
mod roundtrip;

// What plan forecasts, against what compress writes.
mod forecast;

// Verbs that write nothing when asked to.
mod dry_run;

// What a method leaves alone, dropped to the base.
mod rest;

// Forms that other tools read.
mod export;

// What stored bits are for.
mod parts;

// One compress on several machines.
mod machines;

// A base shifted before the delta is taken.
mod base_shift;
mod base_shift_edges;
// A method of the caller's own.
mod custom;
// Statistics of the layers' inputs: errors weighed by them, settings chosen by them.
mod calibrate;

// LoRA adapters as fine-tunes; names on the Hub.
mod adapter;

// NaN and infinities under lossy methods.
mod nonfinite;

// Threads, memory, mapping and vector code never show in the bytes.
mod determinism;

// Variants removed, archives written anew without them.
mod upkeep;

// Errors on made-up deltas, as the specification of the methods has them.
mod anchors;
mod auto;

// Damaged and forged input ends in an error of the right kind.
mod forged;
mod hostile;

// One byte changed, at every place of an archive.
mod single_byte;

// What the fuzzers of tests/fuzz do with an input; their corpus, replayed.
#[allow(dead_code, unused_imports, reason = "the fuzzers use the rest")]
#[path = "../fuzz/src/targets/mod.rs"]
mod fuzz_targets;
mod fuzzed;

// Writers that die at any moment, and go on where they stood.
mod crash;
mod resume;

// Readers beside a writer, and writers beside each other.
mod concurrent;

// Inputs that change under a run.
mod changing;

// The verbs on a tiny pair; each change they make to a disk refused or torn; power lost at any moment.
mod cases;
#[cfg(feature = "fault-injection")]
mod faults;
#[cfg(feature = "fault-injection")]
mod parity_faults;
#[cfg(feature = "fault-injection")]
mod power_loss;

// Disks that are full, read-only or gone; a real file system that loses power or cannot keep what it took.
#[cfg(feature = "fault-injection")]
mod ext4;
mod small_disk;

// Real kills, many: for an hour that nobody needs the machine.
mod kills;

// Archives of every format version, and broken ones.
mod compat;

// The order of the modules and what only some may do, read from the source.
mod layering;

// What the program is built from: licences, versions, places.
mod supply;

// The NumPy model's vectors.
mod reference;

// Tensors read one by one.
mod read;

// Real checkpoints, where there are some.
mod shared_data;
