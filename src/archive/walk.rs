//! Walks a file frame by frame, and finds its way again behind bytes that are neither frame nor footer.
//!
//! What is found says where it stands and what it is; bodies are not read, so a walk costs one small read
//! a frame. Only behind a gap bytes are searched, and a header or footer counts by its checksum. A body that
//! is searched may hold whole frames of another archive: who uses what was found there has to ask
//! whether it can stand there.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::archive::format::{FOOTER_LEN, Footer};
use crate::error::Result;
use crate::frame::{HEADER_LEN, Header, SKIPPABLE_MAGIC, frame_len};

/// Bytes searched at a time.
const CHUNK: usize = 1 << 18;
/// Bytes given up around a place of the disk that cannot be read.
const BLOCK: usize = 4096;

/// What stands at a place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// A frame: where, and its header.
    Frame { offset: u64, header: Header },
    /// A frame of a kind that this tool does not know.
    Unknown { offset: u64 },
    /// A footer that stands where it says.
    Footer(Footer),
    /// Bytes that are nothing of this, up to the next that are.
    Gap { offset: u64, len: u64 },
}

/// Goes through a range of a file in order.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    file: &'a File,
    at: u64,
    end: u64,
    chunk: Vec<u8>,
}

impl<'a> Walk<'a> {
    /// A walk from one offset to another, at most the file's length.
    pub(crate) fn new(file: &'a File, from: u64, end: u64) -> Self {
        Self { file, at: from, end, chunk: Vec::new() }
    }

    /// The next thing; `None` at the end.
    ///
    /// # Errors
    /// `Incompatible` at the footer of a newer tool.
    pub(crate) fn next(&mut self) -> Result<Option<Found>> {
        if self.at >= self.end {
            return Ok(None);
        }
        if let Some((found, len)) = self.look(self.at)? {
            self.at += len;
            return Ok(Some(found));
        }
        let offset = self.at;
        self.at = self.search(offset + 1)?;
        Ok(Some(Found::Gap { offset, len: self.at - offset }))
    }

    /// What begins at `offset`, and its bytes.
    fn look(&self, offset: u64) -> Result<Option<(Found, u64)>> {
        let mut bytes = [0; FOOTER_LEN];
        let n = (self.end - offset).min(FOOTER_LEN as u64) as usize;
        read_or_zero(self.file, &mut bytes[..n], offset);
        if n == FOOTER_LEN
            && let Some(footer) = Footer::parse(&bytes, offset)?
        {
            return Ok(Some((Found::Footer(footer), FOOTER_LEN as u64)));
        }
        let Some(head) = bytes.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        // A frame that goes on beyond the end was cut off.
        let Some(len) = frame_len(head).filter(|len| *len <= self.end - offset) else {
            return Ok(None);
        };
        let found = match Header::parse(head) {
            Ok(header) => Found::Frame { offset, header },
            Err(_) => Found::Unknown { offset },
        };
        Ok(Some((found, len)))
    }

    /// The first place from `from` on where a frame or footer begins; the end if there is none.
    fn search(&mut self, from: u64) -> Result<u64> {
        let magic = SKIPPABLE_MAGIC.to_le_bytes();
        let mut from = from;
        while from < self.end {
            let n = (self.end - from).min(CHUNK as u64) as usize;
            let mut chunk = std::mem::take(&mut self.chunk);
            chunk.resize(n, 0);
            read_or_zero(self.file, &mut chunk, from);
            for i in (0..n).filter(|i| chunk[*i] == magic[0]) {
                // A magic that the chunk cuts in two is looked at as well.
                let rest = &chunk[i..n.min(i + magic.len())];
                if magic.starts_with(rest) && self.look(from + i as u64)?.is_some() {
                    self.chunk = chunk;
                    return Ok(from + i as u64);
                }
            }
            self.chunk = chunk;
            from += n as u64;
        }
        Ok(self.end)
    }
}

/// Reads bytes of a file; what the disk does not give is zeros.
fn read_or_zero(file: &File, out: &mut [u8], offset: u64) {
    if file.read_exact_at(out, offset).is_ok() {
        return;
    }
    for (i, block) in out.chunks_mut(BLOCK).enumerate() {
        if file.read_exact_at(block, offset + (i * BLOCK) as u64).is_err() {
            block.fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::frame::{Encoder, Kind, Label};

    fn frame(part: u32, raw: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let label = Label { kind: Kind::Tile, codec: 1, variant: 0, item: 0, part };
        Encoder::new().unwrap().encode(label, raw, &mut out).unwrap();
        out
    }

    fn walk(bytes: &[u8]) -> Vec<Found> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let mut walk = Walk::new(&file, 0, bytes.len() as u64);
        std::iter::from_fn(|| walk.next().unwrap()).collect()
    }

    fn parts(found: &[Found]) -> Vec<(u64, Option<u32>)> {
        let part = |f: &Found| match f {
            Found::Frame { offset, header } => (*offset, Some(header.label.part)),
            Found::Unknown { offset } | Found::Gap { offset, .. } => (*offset, None),
            Found::Footer(footer) => (footer.offset, None),
        };
        found.iter().map(part).collect()
    }

    #[test]
    fn frames_are_found_one_by_one_and_behind_a_gap_of_any_length() {
        let (a, b) = (frame(0, b"one"), frame(1, &[7; 99]));
        for n in [0, 1, 3, 47, 64, CHUNK - 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
            let gap = vec![0x5d; n];
            let found = walk(&[&a[..], &gap, &b].concat());
            let mut wanted = vec![(0, Some(0)), ((a.len() + n) as u64, Some(1))];
            if n > 0 {
                wanted.insert(1, (a.len() as u64, None));
            }
            assert_eq!(parts(&found), wanted, "{n}");
        }
        let cut = walk(&[&a[..], &b[..b.len() - 1]].concat());
        let len = b.len() as u64 - 1;
        assert_eq!(cut[1..], [Found::Gap { offset: a.len() as u64, len }]);
        assert_eq!(walk(&[]), []);
    }

    #[test]
    fn any_damaged_bit_of_a_header_is_a_gap_up_to_the_next_frame() {
        let (a, b) = (frame(0, b"one"), frame(1, b"two"));
        for bit in 0..HEADER_LEN * 8 {
            let mut bytes = [&a[..], &b].concat();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let len = a.len() as u64;
            assert_eq!(parts(&walk(&bytes)), [(0, None), (len, Some(1))], "bit {bit}");
        }
    }
}
