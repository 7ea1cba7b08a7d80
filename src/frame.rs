//! One stored block: a small checksummed header in a skippable frame, then one zstd frame.
//!
//! A frame says what it is (kind, codec, variant, item, part) without knowing what that means, so an
//! index can be rebuilt by walking frames. Byte layout: FORMAT.md section 3.

mod bare;

use std::io::Cursor;

use crate::error::{Error, Result};
pub(crate) use crate::frame::bare::BareFrames;

/// Bytes of the header, the skippable frame's own eight included.
pub(crate) const HEADER_LEN: usize = 48;
/// zstd's magic for skippable frames of the kind used here.
pub(crate) const SKIPPABLE_MAGIC: u32 = 0x184D_2A5D;
/// Marks a frame header inside its skippable frame.
pub(crate) const FRAME_TAG: [u8; 4] = *b"DSFR";
/// Most bytes a frame may expand to.
pub(crate) const MAX_RAW_LEN: u32 = 128 << 20;
/// Fast levels already reach the entropy of planes and packed codes; higher ones gain 0.2 % at a
/// tenth of the speed (measured on bucketed planes).
const LEVEL: i32 = 1;

/// What a frame holds. The number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// One tile of a tensor.
    Tile = 1,
    /// A variant's description, written before its tiles.
    Head = 2,
    /// What is known once a variant's tiles are written: places, hashes, errors.
    Seal = 3,
    /// A piece of a side file.
    Blob = 4,
    /// The list of variants of one generation.
    Index = 5,
}

impl Kind {
    fn from_code(code: u8) -> Option<Self> {
        [Kind::Tile, Kind::Head, Kind::Seal, Kind::Blob, Kind::Index]
            .into_iter()
            .find(|k| *k as u8 == code)
    }
}

/// What a frame is, as its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) kind: Kind,
    /// Codec id of a tile; 0 otherwise.
    pub(crate) codec: u16,
    /// Variant id, or the generation of an index.
    pub(crate) variant: u32,
    /// Tensor or blob.
    pub(crate) item: u32,
    /// Tile of the tensor, or piece of the blob.
    pub(crate) part: u32,
}

impl Label {
    /// Whether both are the same frame, whatever its codec: a tile names its own.
    pub(crate) fn is_but_for_codec(self, wanted: Label) -> bool {
        self == Label { codec: self.codec, ..wanted }
    }
}

/// A parsed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) label: Label,
    /// Bytes after decompression.
    pub(crate) raw_len: u32,
    /// Bytes of the zstd frame that follows.
    pub(crate) body_len: u32,
    body_crc: u32,
}

impl Header {
    fn to_bytes(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let l = self.label;
        out[0..4].copy_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&(HEADER_LEN as u32 - 8).to_le_bytes());
        out[8..12].copy_from_slice(&FRAME_TAG);
        out[12] = l.kind as u8;
        out[14..16].copy_from_slice(&l.codec.to_le_bytes());
        let words = [l.variant, l.item, l.part, self.raw_len, self.body_len, self.body_crc];
        for (slot, word) in out[16..40].chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32c::crc32c(&out[..44]);
        out[44..48].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header; says whether the checksum, tags and lengths agree.
    pub(crate) fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        let word =
            |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
        if word(0) != SKIPPABLE_MAGIC
            || word(4) != HEADER_LEN as u32 - 8
            || bytes[8..12] != FRAME_TAG
        {
            return Err(Error::corrupt("no frame header here"));
        }
        if crc32c::crc32c(&bytes[..44]) != word(44) {
            return Err(Error::corrupt("frame header checksum differs"));
        }
        let kind =
            Kind::from_code(bytes[12]).ok_or_else(|| Error::unknown("frame kind", bytes[12]))?;
        if bytes[13] != 0 || word(40) != 0 {
            return Err(Error::unknown("frame revision", bytes[13]));
        }
        let codec = u16::from_le_bytes([bytes[14], bytes[15]]);
        let label = Label { kind, codec, variant: word(16), item: word(20), part: word(24) };
        let header = Self { label, raw_len: word(28), body_len: word(32), body_crc: word(36) };
        if header.raw_len > MAX_RAW_LEN {
            return Err(Error::corrupt(format!(
                "frame of {} bytes exceeds the cap",
                header.raw_len
            )));
        }
        Ok(header)
    }
}

/// Bytes of the stored frame that begins with this header, whatever its kind; `None` if this is no header
/// whose checksum is right, or one laid out in a way that this tool does not know.
pub(crate) fn frame_len(bytes: &[u8; HEADER_LEN]) -> Option<u64> {
    let word = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    let is_header = word(0) == SKIPPABLE_MAGIC
        && word(4) == HEADER_LEN as u32 - 8
        && bytes[8..12] == FRAME_TAG
        && crc32c::crc32c(&bytes[..44]) == word(44);
    (is_header && bytes[13] == 0).then(|| HEADER_LEN as u64 + u64::from(word(32)))
}

/// Bytes of the frame of a payload of `n` bytes that do not compress: as zstd (RFC 8878) stores them,
/// in raw blocks of 128 KiB after magic, descriptor and content size.
pub(crate) fn stored_len(n: usize) -> usize {
    let content_size = match n {
        0..256 => 1,
        256..65792 => 2,
        _ => 4,
    };
    HEADER_LEN + 5 + content_size + 3 * n.div_ceil(128 << 10).max(1) + n
}

/// Most bytes of the frame of a payload of `n` bytes, in blocks for pieces of it or not.
pub(crate) fn max_len(n: usize) -> usize {
    HEADER_LEN + zstd::zstd_safe::compress_bound(n) + 64
}

/// Compresses payloads into frames; one a worker, reused.
pub(crate) struct Encoder {
    zstd: zstd::bulk::Compressor<'static>,
    /// For payloads in pieces; made when the first one comes.
    pieces: Option<zstd::stream::raw::Encoder<'static>>,
}

/// Payloads up to this size are worth a block of their own for each piece: in a larger one few blocks hold
/// the end of one piece and the start of the next.
const IN_PIECES: usize = 1 << 20;

impl Encoder {
    pub(crate) fn new() -> Result<Self> {
        let zstd = zstd::bulk::Compressor::new(LEVEL).map_err(zstd_failed)?;
        Ok(Self { zstd, pieces: None })
    }

    /// Appends the frame of `raw` to `out`.
    pub(crate) fn encode(&mut self, label: Label, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.encode_pieces(label, raw, 0, out)
    }

    /// The same for a payload whose bytes have other statistics every `piece` bytes, counted from its
    /// end: a small one gets a table of codes for each piece.
    pub(crate) fn encode_pieces(
        &mut self,
        label: Label,
        raw: &[u8],
        piece: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let raw_len =
            u32::try_from(raw.len()).ok().filter(|n| *n <= MAX_RAW_LEN).ok_or_else(|| {
                Error::invalid_argument(format!("{} bytes do not fit one frame", raw.len()))
            })?;
        let start = out.len();
        let body = start + HEADER_LEN;
        out.reserve(max_len(raw.len()));
        out.resize(body, 0);
        let body_len = if (1..raw.len()).contains(&piece) && raw.len() <= IN_PIECES {
            self.compress_pieces(raw, piece, out).map_err(zstd_failed)?
        } else {
            // Behind a cursor zstd writes to what the vector has reserved, which need not be zeroed.
            let mut cursor = Cursor::new(&mut *out);
            cursor.set_position(body as u64);
            self.zstd.compress_to_buffer(raw, &mut cursor).map_err(zstd_failed)?
        };
        let body_crc = crc32c::crc32c(&out[body..]);
        let header = Header { label, raw_len, body_len: body_len as u32, body_crc };
        out[start..body].copy_from_slice(&header.to_bytes());
        Ok(())
    }

    /// Appends one zstd frame with a block for each piece; returns its length.
    fn compress_pieces(
        &mut self,
        raw: &[u8],
        piece: usize,
        out: &mut Vec<u8>,
    ) -> std::io::Result<usize> {
        use zstd::stream::raw::{Encoder, InBuffer, Operation, OutBuffer};
        let zstd = match &mut self.pieces {
            Some(zstd) => zstd,
            none => none.insert(Encoder::new(LEVEL)?),
        };
        zstd.reinit()?;
        zstd.set_pledged_src_size(Some(raw.len() as u64))?;
        let start = out.len();
        let mut output = OutBuffer::around_pos(out, start);
        let (first, rest) = raw.split_at(raw.len() % piece);
        for piece in std::iter::once(first).chain(rest.chunks(piece)) {
            let mut input = InBuffer::around(piece);
            while input.pos() < piece.len() {
                zstd.run(&mut input, &mut output)?;
            }
            while zstd.flush(&mut output)? > 0 {}
        }
        while zstd.finish(&mut output, true)? > 0 {}
        Ok(output.pos() - start)
    }

    /// Bytes of the body that a frame of `raw` would have; `buffer` is working space.
    pub(crate) fn body_len(&mut self, raw: &[u8], buffer: &mut Vec<u8>) -> Result<usize> {
        buffer.clear();
        buffer.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        self.zstd.compress_to_buffer(raw, buffer).map_err(zstd_failed)
    }
}

/// Decompresses frames; one a worker, reused.
pub(crate) struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Decoder {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { zstd: zstd::bulk::Decompressor::new().map_err(zstd_failed)? })
    }

    /// Checks a whole stored frame against what it should be, and expands it into `out` (cleared
    /// first), allocating at most `cap` bytes.
    pub(crate) fn decode(
        &mut self,
        stored: &[u8],
        cap: usize,
        out: &mut Vec<u8>,
    ) -> Result<Header> {
        let (header, body) = check(stored)?;
        let raw_len = header.raw_len as usize;
        if raw_len > cap {
            return Err(Error::corrupt(format!(
                "frame of {raw_len} bytes where {cap} are possible"
            )));
        }
        out.clear();
        out.reserve(raw_len);
        let n = self
            .zstd
            .decompress_to_buffer(body, out)
            .map_err(|e| Error::corrupt("frame does not decompress").with_source(e))?;
        if n != raw_len {
            return Err(Error::corrupt("frame expands to another length than it says"));
        }
        Ok(header)
    }
}

/// Checks the header, lengths and checksums of a whole stored frame without expanding it; returns its
/// header and its body.
pub(crate) fn check(stored: &[u8]) -> Result<(Header, &[u8])> {
    let (head, body) = stored
        .split_first_chunk::<HEADER_LEN>()
        .ok_or_else(|| Error::truncated("frame shorter than its header"))?;
    let header = Header::parse(head)?;
    if header.body_len as usize != body.len() {
        return Err(Error::corrupt("frame length differs from the index"));
    }
    if crc32c::crc32c(body) != header.body_crc {
        return Err(Error::corrupt("frame checksum differs"));
    }
    let frame_len = zstd::zstd_safe::find_frame_compressed_size(body);
    if frame_len != Ok(body.len()) {
        return Err(Error::corrupt("frame is not one zstd frame"));
    }
    // Before anything is allocated for it: a few bytes could say that they are many.
    let content_size = zstd::zstd_safe::get_frame_content_size(body);
    if !matches!(content_size, Ok(Some(n)) if n == u64::from(header.raw_len)) {
        return Err(Error::corrupt("frame expands to another length than it says"));
    }
    Ok((header, body))
}

fn zstd_failed(e: std::io::Error) -> Error {
    Error::new(crate::error::ErrorKind::Io, "zstd refused to compress").with_source(e)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: Label = Label { kind: Kind::Tile, codec: 3, variant: 7, item: 1, part: 2 };

    fn stored(raw: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Encoder::new().unwrap().encode(LABEL, raw, &mut out).unwrap();
        out
    }

    #[test]
    fn bytes_that_do_not_compress_take_what_was_said() {
        let mut encoder = Encoder::new().unwrap();
        let mut draws = vec![0u16; 200_000];
        crate::kernel::random::row_draws(1, 1, &mut draws);
        let bytes: Vec<u8> = draws.iter().map(|d| *d as u8).collect();
        for n in [0, 1, 100, 255, 256, 5000, 65791, 65792, 131_072, 131_073, 200_000] {
            let mut frame = Vec::new();
            let label = Label { kind: Kind::Tile, codec: 7, variant: 0, item: 0, part: 0 };
            encoder.encode(label, &bytes[..n], &mut frame).unwrap();
            assert_eq!(frame.len(), stored_len(n), "{n}");
        }
    }

    #[test]
    fn never_change_these() {
        assert_eq!(HEADER_LEN, 48);
        assert_eq!(SKIPPABLE_MAGIC, 0x184D_2A5D);
        assert_eq!(FRAME_TAG, *b"DSFR");
        let codes = [Kind::Tile, Kind::Head, Kind::Seal, Kind::Blob, Kind::Index].map(|k| k as u8);
        assert_eq!(codes, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn round_trip_keeps_label_and_bytes() {
        for raw in [&b""[..], b"a", &[9; 100_000]] {
            let stored = stored(raw);
            let mut out = vec![1];
            let header = Decoder::new().unwrap().decode(&stored, 1 << 20, &mut out).unwrap();
            assert_eq!((header.label, &out[..]), (LABEL, raw));
            assert_eq!(HEADER_LEN + header.body_len as usize, stored.len());
            let body_len = Encoder::new().unwrap().body_len(raw, &mut out).unwrap();
            assert_eq!(body_len, header.body_len as usize);
        }
    }

    #[test]
    fn pieces_have_codes_of_their_own_and_come_back() {
        let mut draws = vec![0u16; 60_000];
        crate::kernel::random::row_draws(1, 1, &mut draws);
        // Two pieces of 30,000 bytes, of few values each, after one byte.
        let byte = |(i, d): (usize, &u16)| (*d as u8 & 15) | if i < 30_000 { 0x40 } else { 0x90 };
        let raw: Vec<u8> = std::iter::once(7).chain(draws.iter().enumerate().map(byte)).collect();
        let mut encoder = Encoder::new().unwrap();
        let (mut whole, mut pieces) = (Vec::new(), vec![1, 2, 3]);
        encoder.encode(LABEL, &raw, &mut whole).unwrap();
        for _ in 0..2 {
            pieces.truncate(3);
            encoder.encode_pieces(LABEL, &raw, 30_000, &mut pieces).unwrap();
            assert!(pieces.len() < whole.len() * 9 / 10, "{} {}", pieces.len(), whole.len());
            let mut out = Vec::new();
            Decoder::new().unwrap().decode(&pieces[3..], 1 << 20, &mut out).unwrap();
            assert_eq!(out, raw);
        }
        for (len, piece) in [(0, 5), (1, 1), (5, 5), (6, 5), (9, 4), (60_001, 100_000)] {
            let (mut frame, mut out) = (Vec::new(), Vec::new());
            encoder.encode_pieces(LABEL, &raw[..len], piece, &mut frame).unwrap();
            Decoder::new().unwrap().decode(&frame, 1 << 20, &mut out).unwrap();
            assert_eq!(out, &raw[..len]);
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let good = stored(b"a payload that is long enough to be worth it");
        let mut decoder = Decoder::new().unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decoder.decode(&bad, 1 << 20, &mut Vec::new()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_bomb_is_refused_before_it_allocates() {
        let bomb = stored(&vec![0; 1 << 20]);
        let mut out = Vec::new();
        assert!(Decoder::new().unwrap().decode(&bomb, 1000, &mut out).is_err());
        assert_eq!(out.capacity(), 0);
        // A small frame whose header says more than its zstd frame does.
        let mut lie = stored(b"small");
        lie[28..32].copy_from_slice(&(64u32 << 20).to_le_bytes());
        let crc = crc32c::crc32c(&lie[..44]);
        lie[44..48].copy_from_slice(&crc.to_le_bytes());
        assert!(Decoder::new().unwrap().decode(&lie, 128 << 20, &mut out).is_err());
        assert_eq!(out.capacity(), 0);
    }
}
