//! `restore`: a variant becomes a loadable checkpoint again.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::archive::{Archive, BLOB_PIECE, Stored};
use crate::checkpoint::{
    CheckpointWriter, ShardLayout, aliases, header_metadata, parse_layout, plan_shards,
};
use crate::error::{Error, Result, ResultExt};
use crate::frame::{Decoder, Kind, Label};
use crate::pipeline::base::Base;
use crate::pipeline::budget::peak_memory;
use crate::pipeline::decode::{DecodeStage, DecodeState, Decoded, HashCheck};
use crate::pipeline::dry_run::space_for_dir;
use crate::pipeline::frames::run_frames;
use crate::pipeline::options::{Observer, RestoreOptions};
use crate::pipeline::select::select;
use crate::pipeline::spares::Spares;
use crate::pipeline::stored_delta::{Shift, load_shift};
use crate::report::{DryRun, RestoreReport};

/// Lost tensors and side files that an error names.
const MAX_NAMED: usize = 20;

/// Restores one variant of `archive` into the directory `output`.
///
/// # Errors
/// `Mismatch` if `base` is not the base the variant was made against, naming the first tensor that
/// differs; `Corrupt` or `Truncated` if the archive is damaged; `InvalidArgument` if the variant or
/// tensors do not exist or `output` is not empty (without force). Nothing is left at `output`.
pub fn restore(
    archive: &Path,
    base: &Path,
    output: &Path,
    options: &RestoreOptions,
    observer: &dyn Observer,
) -> Result<RestoreReport> {
    let started = Instant::now();
    let mut opened = Archive::open(archive)?;
    let stored = opened.load(options.name.as_deref())?;
    opened.follow(options.resources.map);
    let selected = select(&stored, &options.tensors)?;
    refuse_lost(&opened, &stored, &selected, options.tensors.is_empty())?;
    let base = Base::open(base, &options.resources)?;
    check_output(output, archive, &base)?;
    let wanted = sources(&stored, &selected);
    base.check(&stored, &wanted)?;
    let whole = options.tensors.is_empty();
    let layouts = layouts(&stored, &selected, whole, options.max_shard_size)
        .context(|| format!("variant `{}`", stored.head.name))?;
    let shift = load_shift(&opened, &stored)?;
    if options.dry_run {
        let stage = stage(&opened, &stored, &base, shift.as_ref(), &wanted);
        return dry_run(&stage, output, &selected, layouts, options, started);
    }
    let identity = identity(&stored, &layouts)?;
    let mut writer = CheckpointWriter::create_as(output, options.force, identity, options.resume)?;
    if options.resources.map.passes_cache_by(layouts.iter().map(|l| l.file_len).sum()) {
        writer.pass_cache_by();
    }
    for layout in &layouts {
        writer.start_shard(layout)?;
    }
    let mut places = places(&stored, &selected, &layouts);
    places.iter_mut().for_each(|places| places.retain(|(shard, _)| !writer.is_whole(*shard)));
    let wanted: Vec<_> = wanted.into_iter().filter(|i| !places[*i].is_empty()).collect();
    let stage = stage(&opened, &stored, &base, shift.as_ref(), &wanted);
    let resumed_files = (0..layouts.len()).filter(|shard| writer.is_whole(*shard)).count();
    write_tensors(&stage, &places, &writer, options, observer)?;
    if whole {
        write_side_files(&opened, &stored, &mut writer)?;
    }
    writer.write_index(stored.head.has_index && whole && options.max_shard_size.is_none())?;
    base.checkpoint().check_unchanged()?;
    // Who wished to stop at the last tile, too.
    observer.check()?;
    writer.commit()?;
    Ok(RestoreReport { resumed_files, ..report(&stored, &selected, layouts, started) })
}

/// What a restore that writes nothing reports, once all that it reads was looked at.
fn dry_run(
    stage: &DecodeStage<'_>,
    output: &Path,
    selected: &[usize],
    layouts: Vec<ShardLayout>,
    options: &RestoreOptions,
    started: Instant,
) -> Result<RestoreReport> {
    stage.needs().width(options.resources.max_memory, options.resources.threads)?;
    CheckpointWriter::refuse_existing(output, options.force)?;
    let mut told = report(stage.stored, selected, layouts, started);
    let side_files = stage.stored.head.side_files.iter().map(|f| f.len);
    let beside = if options.tensors.is_empty() { side_files.sum() } else { 0 };
    told.run = Some(space_for_dir(output, told.restored_bytes + beside)?).into();
    Ok(told)
}

fn stage<'a>(
    archive: &'a Archive,
    stored: &'a Stored,
    base: &'a Base,
    shift: Option<&'a Shift<'a>>,
    wanted: &'a [usize],
) -> DecodeStage<'a> {
    DecodeStage { archive, stored, base: Some(base), shift, wanted, spares: Spares::default() }
}

fn report(
    stored: &Stored,
    selected: &[usize],
    layouts: Vec<ShardLayout>,
    started: Instant,
) -> RestoreReport {
    RestoreReport {
        variant: stored.head.name.clone(),
        restored_bytes: layouts.iter().map(|l| l.file_len).sum(),
        tensors: selected.len(),
        files: layouts.into_iter().map(|l| l.file_name).collect(),
        resumed_files: 0,
        peak_memory_bytes: peak_memory(),
        elapsed_seconds: started.elapsed().as_secs_f64(),
        run: DryRun::default(),
    }
}

/// What tells this checkpoint from all others: its files' headers and the hashes of its tensors.
fn identity(stored: &Stored, layouts: &[ShardLayout]) -> Result<u64> {
    let mut bytes = stored.seal.to_bytes()?;
    for layout in layouts {
        bytes.extend(layout.file_name.as_bytes());
        bytes.extend(&layout.header);
    }
    Ok(xxh3_64(&bytes))
}

/// Says whether writing `output` would touch what is read.
pub(crate) fn check_output(output: &Path, archive: &Path, base: &Base) -> Result<()> {
    if aliases(output, base.checkpoint()) {
        let text =
            format!("{} lies in the base or holds it; choose another directory", output.display());
        return Err(Error::invalid_argument(text));
    }
    let holds_archive = match (output.canonicalize(), archive.canonicalize()) {
        (Ok(output), Ok(archive)) => archive.starts_with(output),
        _ => false,
    };
    if holds_archive {
        let text =
            format!("{} is or holds the archive; choose another directory", output.display());
        return Err(Error::invalid_argument(text));
    }
    Ok(())
}

/// Refuses tensors, and for a whole restore side files, that a recover could not save, naming them.
pub(crate) fn refuse_lost(
    archive: &Archive,
    stored: &Stored,
    selected: &[usize],
    whole: bool,
) -> Result<()> {
    let lost = archive.lost(stored)?;
    let tensors =
        selected.iter().filter(|i| lost.tensors.contains(&stored.head.items[**i].source(**i)));
    let mut names: Vec<_> =
        tensors.map(|i| format!("tensor {}", stored.tensors[*i].name)).collect();
    let files = lost.side_files.iter().filter(|_| whole);
    names.extend(files.map(|i| format!("side file {}", stored.head.side_files[*i].name)));
    if names.is_empty() {
        return Ok(());
    }
    let n_more = names.len().saturating_sub(MAX_NAMED);
    names.truncate(MAX_NAMED);
    let more = if n_more > 0 { format!(" and {n_more} more") } else { String::new() };
    Err(Error::corrupt(format!(
        "variant `{}` is not whole: the archive it was recovered from had lost {}{more}; --tensor \
         restores others",
        stored.head.name,
        names.join(", ")
    )))
}

/// Tensors to decode so that all selected ones are restored, ascending.
pub(crate) fn sources(stored: &Stored, selected: &[usize]) -> Vec<usize> {
    let mut wanted: Vec<_> = selected.iter().map(|i| stored.head.items[*i].source(*i)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// The files to write: the fine-tune's own, or new ones.
fn layouts(
    stored: &Stored,
    selected: &[usize],
    whole: bool,
    max_shard_size: Option<u64>,
) -> Result<Vec<ShardLayout>> {
    let corrupt = |e: Error| Error::corrupt(e.to_string());
    if whole && max_shard_size.is_none() {
        let layout = |s: &crate::archive::StoredShard| {
            parse_layout(&s.file_name, &s.header, "stored shard").map_err(corrupt)
        };
        return stored.head.shards.iter().map(layout).collect();
    }
    let tensors: Vec<_> = selected
        .iter()
        .map(|i| &stored.tensors[*i])
        .map(|t| (t.name.clone(), t.dtype, t.shape.clone(), t.n_bytes))
        .collect();
    let metadata = match stored.head.shards.first() {
        Some(shard) => header_metadata(&shard.header, &shard.file_name).map_err(corrupt)?,
        None => None,
    };
    plan_shards(&tensors, metadata.as_ref(), max_shard_size.unwrap_or(u64::MAX))
}

/// For each tensor to decode, where it goes: output shard and offset, several if it has aliases.
fn places(stored: &Stored, selected: &[usize], layouts: &[ShardLayout]) -> Vec<Vec<(usize, u64)>> {
    let by_name: HashMap<&str, (usize, u64)> = layouts
        .iter()
        .enumerate()
        .flat_map(|(shard, l)| l.tensors.iter().map(move |t| (t.0.as_str(), (shard, t.1))))
        .collect();
    let mut places = vec![Vec::new(); stored.tensors.len()];
    for &i in selected {
        places[stored.head.items[i].source(i)].extend(by_name.get(stored.tensors[i].name.as_str()));
    }
    places
}

fn write_tensors(
    stage: &DecodeStage<'_>,
    places: &[Vec<(usize, u64)>],
    writer: &CheckpointWriter,
    options: &RestoreOptions,
    observer: &dyn Observer,
) -> Result<()> {
    let mut needs = stage.needs();
    needs.resident += writer.buffer_bytes();
    let mut check = HashCheck::new(stage);
    let (mut done, total) = (0, stage.total_bytes());
    let mut unchecked = unchecked(stage, places);
    observer.stage("restore");
    run_frames(
        stage,
        (needs, &options.resources),
        None,
        DecodeState::new,
        |state, job| {
            let tile = stage.work(state, job)?;
            // By the worker, while the tile is in its cache.
            let lane = stage.stored.tensors[tile.tensor].dtype.lane_bytes();
            let start = tile.tile.bytes(lane).start;
            for (shard, offset) in &places[tile.tensor] {
                writer.write_at(*shard, offset + start, &tile.bytes)?;
            }
            Ok(tile)
        },
        move |tile: Decoded| {
            observer.check()?;
            let is_whole = check.hold(&tile)?;
            let shards = places[tile.tensor].iter().filter(|_| is_whole);
            for (shard, _) in shards {
                let left = unchecked.entry(*shard).or_default();
                *left -= 1;
                if *left == 0 {
                    // Whole and as it was stored: a run that is cut off from here on keeps it.
                    writer.finish_shard(*shard)?;
                }
            }
            done += tile.bytes.len() as u64;
            observer.progress(done, total);
            check.done(tile);
            Ok(())
        },
    )
}

/// How many tensors of each shard are still to be decoded and held to their hashes.
fn unchecked(stage: &DecodeStage<'_>, places: &[Vec<(usize, u64)>]) -> HashMap<usize, usize> {
    let mut out = HashMap::new();
    let with_tiles = stage.wanted.iter().filter(|i| !stage.stored.tilings[**i].is_empty());
    for (shard, _) in with_tiles.flat_map(|i| &places[*i]) {
        *out.entry(*shard).or_default() += 1;
    }
    out
}

fn write_side_files(
    archive: &Archive,
    stored: &Stored,
    writer: &mut CheckpointWriter,
) -> Result<()> {
    for (i, file) in stored.head.side_files.iter().enumerate() {
        let mut pieces = BlobPieces::new(archive, stored, i)?;
        writer.write_side_file(&file.name, &mut pieces)?;
        pieces.check()?;
    }
    Ok(())
}

/// The pieces of a stored side file, one after the other.
pub(crate) struct BlobPieces<'a> {
    archive: &'a Archive,
    stored: &'a Stored,
    item: usize,
    part: usize,
    offset: u64,
    hash: Xxh3,
    len: u64,
    decoder: Decoder,
}

impl<'a> BlobPieces<'a> {
    pub(crate) fn new(archive: &'a Archive, stored: &'a Stored, item: usize) -> Result<Self> {
        let offset = stored.seal.blobs[item].offset;
        let (hash, decoder) = (Xxh3::new(), Decoder::new()?);
        Ok(Self { archive, stored, item, part: 0, offset, hash, len: 0, decoder })
    }

    /// Where the next piece stands, and the piece; `None` after the last. It goes on behind a damaged
    /// one.
    pub(crate) fn next_piece(&mut self) -> Option<(u64, Result<Vec<u8>>)> {
        let (offset, part) = (self.offset, self.part as u32);
        let len = self.step()?;
        Some((offset, self.read(offset, part, len)))
    }

    /// Passes by the next piece; returns its stored bytes, `None` after the last.
    pub(crate) fn step(&mut self) -> Option<u32> {
        let len = *self.stored.seal.blobs[self.item].frame_lens.get(self.part)?;
        self.offset += u64::from(len);
        self.part += 1;
        Some(len)
    }

    fn read(&mut self, offset: u64, part: u32, stored_len: u32) -> Result<Vec<u8>> {
        let (mut frame, mut piece) = (Vec::new(), Vec::new());
        self.archive.frames().read(offset, stored_len as usize, &mut frame)?;
        let header = self.decoder.decode(&frame, BLOB_PIECE, &mut piece)?;
        let (variant, item) = (self.stored.id, self.item as u32);
        if header.label != (Label { kind: Kind::Blob, codec: 0, variant, item, part }) {
            return Err(Error::corrupt("another frame stands here"));
        }
        self.hash.update(&piece);
        self.len += piece.len() as u64;
        if self.len > self.stored.head.side_files[self.item].len {
            return Err(Error::corrupt("it is longer than was stored"));
        }
        Ok(piece)
    }

    fn name(&self) -> &str {
        &self.stored.head.side_files[self.item].name
    }

    /// Hash of the pieces so far, if they have the bytes that the file had.
    pub(crate) fn hash(&self) -> Option<u128> {
        let file = &self.stored.head.side_files[self.item];
        (self.len == file.len).then(|| self.hash.digest128())
    }

    /// Says whether all pieces together are the file that was stored.
    pub(crate) fn check(&self) -> Result<()> {
        let blob = &self.stored.seal.blobs[self.item];
        let file = &self.stored.head.side_files[self.item];
        if self.len != file.len || self.hash.digest128() != blob.hash {
            return Err(Error::corrupt(format!(
                "side file {} has other bytes than were stored",
                file.name
            )));
        }
        Ok(())
    }
}

impl Iterator for BlobPieces<'_> {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let (offset, piece) = self.next_piece()?;
        Some(piece.context(|| format!("side file {} at offset {offset}", self.name())))
    }
}
