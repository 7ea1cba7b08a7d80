//! Safetensors headers. Input: the JSON; its length is put in front. What is taken must be what the format's own
//! crate reads from the same bytes.

use std::collections::BTreeMap;

use delta_stream::{ErrorKind, fuzzing};
use safetensors::SafeTensors;

/// Longest file that is made.
const MOST: u64 = 1 << 16;

pub(super) fn check(json: &[u8]) {
    let header = [&(json.len() as u64).to_le_bytes(), json].concat();
    let mut tensors = match fuzzing::header(&header) {
        Ok(tensors) => tensors,
        Err(e) => return assert_eq!(e.kind(), ErrorKind::InvalidCheckpoint, "{e}"),
    };
    // By offset, then by name; a tensor without bytes may come after the one that begins where it does.
    assert!(tensors.is_sorted_by_key(|(name, _, _, range)| (range.start, name.clone())));
    tensors.sort_by_key(|(_, _, _, range)| (range.start, range.end));
    let mut next = header.len() as u64;
    for (name, dtype, shape, range) in &tensors {
        assert_eq!(range.start, next, "{name}");
        let bits = shape.iter().product::<u64>() * dtype.bits() as u64;
        assert_eq!((range.end - range.start) * 8, bits, "{name}");
        next = range.end;
    }
    // The other crate wants to see the whole file.
    if next > MOST {
        return;
    }
    let mut file = header.clone();
    file.resize(next as usize, 0);
    let (n, theirs) = match SafeTensors::read_metadata(&file) {
        Ok(read) => read,
        Err(e) => panic!("the format's own crate refuses what was taken: {e}"),
    };
    assert_eq!(n, json.len());
    let theirs: BTreeMap<_, _> = theirs.tensors().into_iter().collect();
    assert_eq!(theirs.len(), tensors.len());
    for (name, dtype, shape, range) in &tensors {
        let info = theirs[name];
        let start = range.start - header.len() as u64;
        let offsets = (start as usize, (start + range.end - range.start) as usize);
        assert_eq!(info.dtype.to_string(), dtype.name());
        assert_eq!(info.shape, shape.iter().map(|n| *n as usize).collect::<Vec<_>>());
        assert_eq!(info.data_offsets, offsets);
    }
}
