//! A zstd frame alone, without a header of ours, made piece by piece: for files that other tools read.

use zstd::stream::raw::{Encoder, InBuffer, Operation, OutBuffer};

use crate::error::{Error, Result};
use crate::frame::{LEVEL, zstd_failed};

/// Bytes that are compressed at a time, so that what comes out of them is bounded too.
const PIECE: usize = 1 << 20;

/// Makes one bare frame after another.
pub(crate) struct BareFrames {
    zstd: Encoder<'static>,
    /// Bytes of the frame that is open which are still to come.
    left: u64,
    out: Vec<u8>,
}

impl BareFrames {
    pub(crate) fn new() -> Result<Self> {
        let zstd = Encoder::new(LEVEL).map_err(zstd_failed)?;
        Ok(Self { zstd, left: 0, out: Vec::with_capacity(zstd::zstd_safe::compress_bound(PIECE)) })
    }

    /// Begins a frame of so many bytes, which its header says: some readers take no other.
    pub(crate) fn begin(&mut self, n_bytes: u64) -> Result<()> {
        self.zstd.reinit().map_err(zstd_failed)?;
        self.zstd.set_pledged_src_size(Some(n_bytes)).map_err(zstd_failed)?;
        self.left = n_bytes;
        Ok(())
    }

    /// Adds bytes to the frame and hands on what is compressed; the last ones end it.
    ///
    /// # Errors
    /// `InvalidArgument` for more bytes than it was to have; what `to` says.
    pub(crate) fn add(
        &mut self,
        raw: &[u8],
        mut to: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.left = self
            .left
            .checked_sub(raw.len() as u64)
            .ok_or_else(|| Error::invalid_argument("more bytes than the zstd frame was to have"))?;
        for piece in raw.chunks(PIECE) {
            let mut input = InBuffer::around(piece);
            while input.pos() < piece.len() {
                self.out.clear();
                let mut output = OutBuffer::around(&mut self.out);
                self.zstd.run(&mut input, &mut output).map_err(zstd_failed)?;
                to(&self.out)?;
            }
        }
        while self.left == 0 {
            self.out.clear();
            let mut output = OutBuffer::around(&mut self.out);
            let n_more = self.zstd.finish(&mut output, true).map_err(zstd_failed)?;
            to(&self.out)?;
            if n_more == 0 {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The frame of these pieces.
    fn frame(frames: &mut BareFrames, pieces: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        frames.begin(pieces.iter().map(|p| p.len() as u64).sum()).unwrap();
        for piece in pieces {
            let keep = |bytes: &[u8]| {
                out.extend_from_slice(bytes);
                Ok(())
            };
            frames.add(piece, keep).unwrap();
        }
        out
    }

    #[test]
    fn frames_are_whole_say_their_length_and_follow_each_other() {
        let noise: Vec<u8> =
            (0..3 << 20).map(|i: u32| (i.wrapping_mul(0x9e37_79b9) >> 21) as u8).collect();
        let zeros = vec![0; 5 << 20];
        let mut frames = BareFrames::new().unwrap();
        for pieces in [&[&noise[..], &zeros][..], &[b"a", b"bc"], &[&zeros[..1], &noise[..7]]] {
            let made = frame(&mut frames, pieces);
            let whole = pieces.concat();
            assert_eq!(zstd::zstd_safe::find_frame_compressed_size(&made), Ok(made.len()));
            let said = zstd::zstd_safe::get_frame_content_size(&made).unwrap();
            assert_eq!(said, Some(whole.len() as u64));
            assert!(zstd::bulk::decompress(&made, whole.len()).unwrap() == whole);
        }
    }

    #[test]
    fn no_more_is_taken_than_was_said() {
        let mut frames = BareFrames::new().unwrap();
        frames.begin(2).unwrap();
        assert!(frames.add(b"abc", |_| Ok(())).is_err());
        // Who hears of bytes may stop it, and the next frame is none the worse for it.
        frames.begin(2).unwrap();
        assert!(frames.add(b"ab", |_| Err(Error::interrupted())).is_err());
        assert!(!frame(&mut frames, &[b"ab"]).is_empty());
    }
}
