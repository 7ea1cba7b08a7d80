//! The archive that parts of the last round are joined to: every frame is held to the place where it has to come.

use crate::archive::{
    ArchiveWriter, BLOB_PIECE, BlobSeal, Cut, Entry, FIRST_VARIANT, Head, Note, PartReader, Place,
    Seal, SealNote, TensorSeal, TileNote,
};
use crate::codec;
use crate::error::{Error, Result, ResultExt};
use crate::frame::{Decoder, Header, Kind, Label, MAX_RAW_LEN};
use crate::method::{Measured, name_of};
use crate::pipeline::decode::target;
use crate::pipeline::parts::join::Copy;
use crate::pipeline::sink::{blank_seals, seal_aliases};
use crate::report::JoinedArchive;
use crate::tensor::Tile;

/// The archive that parts are joined to.
pub(super) struct Whole {
    writer: ArchiveWriter,
    pub(super) head: Head,
    place: Place,
    cut: Cut,
    seals: Vec<TensorSeal>,
    /// Tensors before this one have their seals.
    tensor: usize,
    blobs: Vec<BlobSeal>,
    n_hashed: usize,
    measured: Option<Measured>,
    frame: Vec<u8>,
}

impl Whole {
    /// Begins with the head, which the first part has first.
    pub(super) fn begin(part: &mut PartReader, mut writer: ArchiveWriter) -> Result<Self> {
        let Some(Entry::Frame(len)) = part.next()? else {
            return Err(Error::corrupt("the variant's head is not in it"));
        };
        let (mut frame, mut raw) = (Vec::new(), Vec::new());
        let found = part.frame(len, &mut frame)?.label;
        let (kind, variant) = (Kind::Head, FIRST_VARIANT);
        if found != (Label { kind, codec: 0, variant, item: 0, part: 0 }) {
            return Err(Error::corrupt("its first frame is not the variant's head"));
        }
        Decoder::new()?.decode(&frame, MAX_RAW_LEN as usize, &mut raw)?;
        let head = Head::parse(&raw)?;
        let cut = Cut::of(&head)?;
        let place = writer.write_head(&head)?;
        let seals = blank_seals(cut.tilings.iter());
        let (blobs, measured) = (vec![BlobSeal::default(); head.side_files.len()], None);
        let (tensor, n_hashed) = (0, 0);
        let mut whole =
            Self { writer, head, place, cut, seals, tensor, blobs, n_hashed, measured, frame };
        whole.skip();
        Ok(whole)
    }

    /// Goes on to the next tensor that has tiles.
    fn skip(&mut self) {
        while self.cut.tilings.get(self.tensor).is_some_and(|tiling| tiling.is_empty()) {
            self.tensor += 1;
        }
    }

    /// Takes the rest of a part, which has to go on where the one before it ended.
    pub(super) fn take(&mut self, mut part: PartReader, copy: &mut Copy<'_>) -> Result<()> {
        while let Some(n_bytes) = self.take_entry(&mut part).context(|| part.context())? {
            copy.step(n_bytes)?;
        }
        Ok(())
    }

    /// Takes one entry with its frame; returns the frame's bytes, and nothing behind the last one.
    fn take_entry(&mut self, part: &mut PartReader) -> Result<Option<u64>> {
        let n_bytes = match part.next()? {
            None => return Ok(None),
            Some(Entry::Note(Note::Tile(note))) => {
                let mut frame = std::mem::take(&mut self.frame);
                let header = part.frame(note.len, &mut frame)?;
                self.tile(note, header, &frame)?;
                self.frame = frame;
                note.len.into()
            }
            Some(Entry::Note(Note::Sealed(note))) => self.sealed(note).map(|()| 0)?,
            Some(Entry::Frame(len)) => {
                let mut frame = std::mem::take(&mut self.frame);
                let label = part.frame(len, &mut frame)?.label;
                self.piece(label, &frame)?;
                self.frame = frame;
                len.into()
            }
            Some(Entry::SideFile(hash)) => {
                let blob = self.blobs.get_mut(self.n_hashed);
                blob.ok_or_else(|| Error::corrupt("it has too many side files"))?.hash = hash;
                self.n_hashed += 1;
                0
            }
            Some(Entry::Measured(measured)) => self.measured(measured).map(|()| 0)?,
            Some(_) => return Err(Error::corrupt("it has what belongs to another round")),
        };
        Ok(Some(n_bytes))
    }

    fn tile(&mut self, note: TileNote, header: Header, frame: &[u8]) -> Result<()> {
        let seal = self.seals.get(self.tensor);
        let seal = seal.ok_or_else(|| Error::corrupt("it has too many tiles"))?;
        let (item, part) = (self.tensor as u32, seal.frame_lens.len() as u32);
        let wanted = Label { kind: Kind::Tile, codec: 0, variant: FIRST_VARIANT, item, part };
        let is_next =
            (note.tensor, note.part) == (item, part) && header.label.is_but_for_codec(wanted);
        if !is_next || u64::from(part) >= self.cut.tilings[self.tensor].len() {
            let name = &self.cut.tensors[self.tensor].name;
            return Err(Error::corrupt(format!(
                "tile {part} of tensor {name} is not where it belongs"
            )));
        }
        let tile = self.cut.tilings[self.tensor].get(part.into());
        let name = &self.cut.tensors[self.tensor].name;
        self.fits(&header, &tile).context(|| format!("tile {part} of tensor {name}"))?;
        let offset = self.writer.write(frame)?;
        let seal = &mut self.seals[self.tensor];
        if part == 0 {
            seal.offset = offset;
        }
        note.add_to(seal);
        Ok(())
    }

    /// A frame of the right place may still be of another method's part, and no tile of this variant.
    fn fits(&self, header: &Header, tile: &Tile) -> Result<()> {
        let target = target(&self.head, &self.cut.tensors, self.tensor, tile);
        let codec = codec::of_tile(header.label.codec, &target)?;
        if header.raw_len as usize > codec.max_len(&target) {
            return Err(Error::corrupt("it is larger than its codec makes one"));
        }
        Ok(())
    }

    fn sealed(&mut self, note: SealNote) -> Result<()> {
        let tiling = self.cut.tilings.get(self.tensor).map_or(0, |tiling| tiling.len());
        let seal = self.seals.get_mut(self.tensor).filter(|seal| {
            note.tensor as usize == self.tensor && seal.frame_lens.len() as u64 == tiling
        });
        let seal = seal.ok_or_else(|| {
            Error::corrupt(format!("hashes of tensor {} are not behind its tiles", note.tensor))
        })?;
        note.add_to(seal);
        self.tensor += 1;
        self.skip();
        Ok(())
    }

    /// A piece of a side file: these come when all tensors are there.
    fn piece(&mut self, label: Label, frame: &[u8]) -> Result<()> {
        let wrong = || Error::corrupt("a piece of a side file is not where it belongs");
        let file = self.head.side_files.get(label.item as usize).ok_or_else(wrong)?;
        let before = &self.blobs[..label.item as usize];
        let is_whole = |(blob, len): (&BlobSeal, u64)| {
            blob.frame_lens.len() as u64 == len.div_ceil(BLOB_PIECE as u64)
        };
        let lens = self.head.side_files.iter().map(|file| file.len);
        let are_whole = before.iter().zip(lens).all(is_whole);
        let blob = &self.blobs[label.item as usize];
        let (part, item) = (blob.frame_lens.len() as u32, label.item);
        let wanted = Label { kind: Kind::Blob, codec: 0, variant: FIRST_VARIANT, item, part };
        let is_in = !is_whole((blob, file.len));
        if label != wanted || !is_in || !are_whole || self.tensor < self.seals.len() {
            return Err(wrong());
        }
        let offset = self.writer.write(frame)?;
        let blob = &mut self.blobs[item as usize];
        if part == 0 {
            blob.offset = offset;
        }
        blob.frame_lens.push(frame.len() as u32);
        Ok(())
    }

    /// What was measured of the whole model is the same in every part.
    fn measured(&mut self, measured: Measured) -> Result<()> {
        match &self.measured {
            Some(before) if *before != measured => Err(Error::corrupt(
                "it measured another model than the parts before it; make it again",
            )),
            _ => {
                self.measured = Some(measured);
                Ok(())
            }
        }
    }

    /// Seals the variant and commits the archive.
    pub(super) fn finish(mut self) -> Result<JoinedArchive> {
        if let Some(t) = self.cut.tensors.get(self.tensor) {
            return Err(Error::corrupt(format!("the parts lack tiles of tensor {}", t.name)));
        }
        let pieces = |len: u64| len.div_ceil(BLOB_PIECE as u64);
        let files = self.head.side_files.iter().zip(&self.blobs);
        let are_whole = files.clone().all(|(f, b)| b.frame_lens.len() as u64 == pieces(f.len));
        if !are_whole || self.n_hashed != self.blobs.len() {
            return Err(Error::corrupt("the parts lack a side file"));
        }
        seal_aliases(&mut self.seals, self.head.items.iter());
        let Self { mut writer, head, place, seals, blobs, measured, .. } = self;
        let measured = measured.unwrap_or_default();
        let sum = |of: fn(&TensorSeal) -> f64| -> f64 {
            head.items.iter().zip(&seals).filter(|(item, _)| item.lossy).map(|(_, s)| of(s)).sum()
        };
        let (error, delta) = (sum(|s| s.squared_error), sum(|s| s.squared_delta));
        let seal = Seal { tensors: seals, blobs, measured };
        writer.finish_variant(&head.name, place, &seal)?;
        let archive_bytes = writer.commit()?;
        let shards: u64 = head.shards.iter().map(|shard| shard.file_len).sum();
        let fine_tuned_bytes = shards + head.side_files.iter().map(|file| file.len).sum::<u64>();
        Ok(JoinedArchive {
            method: name_of(head.method),
            archive_bytes,
            fine_tuned_bytes,
            ratio: fine_tuned_bytes as f64 / archive_bytes as f64,
            tensors: head.items.len(),
            relative_error: (delta > 0.0).then(|| error / delta),
            measured: seal.measured,
        })
    }
}
