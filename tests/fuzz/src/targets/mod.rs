//! What each target does with an input: any bytes at all. A target returns if the library did what it promises,
//! and panics otherwise. Used by the fuzzers of this package, and by the tests of the main package, which replay
//! the corpus; so nothing here may depend on either.

mod adapter;
mod archive;
mod codec;
mod frame;
mod header;
mod input;
mod journal;
mod parity;
mod part;
mod records;

pub(crate) use adapter::{CONFIG, factors, input as adapter_input};
pub(crate) use archive::{ARCHIVES, KINDS};
pub(crate) use codec::{FLOATS, TileInput, check as decodes};
pub(crate) use part::{MODES, ROUNDS};

use delta_stream::{Error, ErrorKind};

use self::input::Input;

/// Most changes of one input.
const CHANGES: usize = 8;

/// Runs one input.
pub(crate) type Check = fn(&[u8]);

/// The codecs' targets, by their codes, which begin at 1.
pub(crate) const CODECS: [&str; 7] =
    ["planes", "patches", "signs", "survivors", "groups", "runs", "trellis"];

/// Every target by its name.
pub(crate) const ALL: &[(&str, Check)] = &[
    ("header", header::check),
    ("adapter", adapter::check),
    ("index", records::index),
    ("records", records::variant),
    ("frame", frame::check),
    ("journal", journal::check),
    ("archive", archive::check),
    ("part", part::check),
    ("parity", parity::check),
    ("planes", |data| _ = decodes(1, data)),
    ("patches", |data| _ = decodes(2, data)),
    ("signs", |data| _ = decodes(3, data)),
    ("survivors", |data| _ = decodes(4, data)),
    ("groups", |data| _ = decodes(5, data)),
    ("runs", |data| _ = decodes(6, data)),
    ("trellis", |data| _ = decodes(7, data)),
];

/// Damage in an archive has one of these kinds.
fn hold_to_kinds(error: &Error) {
    let kind = error.kind();
    let known = [ErrorKind::Corrupt, ErrorKind::Truncated, ErrorKind::Incompatible];
    assert!(known.contains(&kind), "{kind:?}: {error}");
}

/// Any bytes changed, the end cut off.
fn scratched(whole: &[u8], input: &mut Input<'_>) -> Vec<u8> {
    let cut = usize::from(input.u16());
    let mut bytes = whole[..whole.len() - cut % whole.len()].to_vec();
    for _ in 0..CHANGES {
        if input.is_empty() {
            break;
        }
        let at = usize::from(input.u16()) % bytes.len();
        bytes[at] ^= input.u8();
    }
    bytes
}
