//! `verify`: the structure of an archive, every frame's checksum, or with the base every tensor against
//! its stored hash. It goes on behind damage and names all of it.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use crate::archive::{Archive, IndexEntry, Stored, Stray};
use crate::error::{Error, Result};
use crate::frame::{Kind, Label};
use crate::pipeline::base::Base;
use crate::pipeline::budget::peak_memory;
use crate::pipeline::decode::{BadTile, DecodeStage, DecodeState, Decoded, Examined, HashCheck};
use crate::pipeline::faults::Whose;
use crate::pipeline::frames::run_frames;
use crate::pipeline::options::{Observer, VerifyLevel, VerifyOptions};
use crate::pipeline::parity;
use crate::pipeline::restore::{BlobPieces, sources};
use crate::pipeline::spares::Spares;
use crate::pipeline::stored_delta::load_shift;
use crate::pipeline::subset::Picker;
use crate::report::{Differing, Lost, ParityReport, VerifyReport};

/// Checks an archive as far as `options` say: the variant that they name, or the whole file, base vectors
/// and what earlier generations left included.
///
/// Damage ends nothing: it is in the report, place by place, and so are tensors that decode to other
/// bytes than were stored.
///
/// # Errors
/// `Corrupt`, `Truncated` or `Incompatible` if there is no last generation to check, or its index cannot
/// be read; `Mismatch` if the base is another; `InvalidArgument` if there is no such variant.
pub fn verify(
    archive: &Path,
    options: &VerifyOptions,
    observer: &dyn Observer,
) -> Result<VerifyReport> {
    let started = Instant::now();
    if let VerifyLevel::Subset(subset) = &options.level {
        subset.validate()?;
    }
    let path = archive;
    let mut opened = Archive::open(archive).map_err(|e| parity::advised(e, archive))?;
    if matches!(options.level, VerifyLevel::Frames | VerifyLevel::Decode(_)) {
        opened.follow(options.resources.map);
    }
    let base = match &options.level {
        VerifyLevel::Decode(path) => Some(Base::open(path, &options.resources)?),
        _ => None,
    };
    let entries = match options.name.as_deref() {
        // Base vectors too.
        None => opened.index.entries.clone(),
        name => vec![opened.entry(name)?.clone()],
    };
    let report = empty(&options.level, opened.tail_len()?);
    let (seen, lacking, picker) = (HashSet::new(), HashSet::new(), None);
    let (archive, base) = (&opened, base.as_ref());
    let mut run = Run { archive, base, options, observer, report, seen, lacking, picker };
    run.choose(&entries);
    let mut whole = Vec::new();
    for entry in &entries {
        if run.variant(entry)? {
            whole.push(entry.id);
        }
    }
    if options.name.is_none() {
        run.file(&whole)?;
    }
    run.parity(path)?;
    let mut report = run.report;
    report.ok = report.n_faults == 0 && report.differing.is_empty() && report.lost.is_empty();
    report.ok &= report.parity.as_ref().is_none_or(ParityReport::is_of_use);
    report.peak_memory_bytes = peak_memory();
    report.elapsed_seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

fn empty(level: &VerifyLevel, tail_bytes: u64) -> VerifyReport {
    VerifyReport {
        ok: true,
        level: match level {
            VerifyLevel::Structure => "structure",
            VerifyLevel::Subset(_) => "subset",
            VerifyLevel::Frames => "frames",
            VerifyLevel::Decode(_) => "decode",
        },
        subset: None,
        variants: Vec::new(),
        headers: 0,
        frames: 0,
        bytes: 0,
        tail_bytes,
        n_faults: 0,
        faults: Vec::new(),
        differing: Vec::new(),
        lost: Vec::new(),
        parity: None,
        peak_memory_bytes: None,
        elapsed_seconds: 0.0,
    }
}

/// One verify.
struct Run<'a> {
    archive: &'a Archive,
    base: Option<&'a Base>,
    options: &'a VerifyOptions,
    observer: &'a dyn Observer,
    report: VerifyReport,
    /// Offsets of faults: a place is reported once, by who knows most of it.
    seen: HashSet<u64>,
    /// Tensors of the variant at hand whose base cannot be shifted, since the vector's are lost.
    lacking: HashSet<usize>,
    /// Which frames are read, if not all.
    picker: Option<Picker>,
}

impl Run<'_> {
    fn fault(&mut self, whose: Whose<'_>, offset: u64, error: &Error) {
        if !self.seen.insert(offset) {
            return;
        }
        self.report.n_faults += 1;
        if self.report.faults.len() >= VerifyReport::MAX_LISTED {
            return;
        }
        self.report.faults.push(whose.fault(offset, error));
    }

    /// Makes the picker, if not all frames are read: it has to know how many there are.
    fn choose(&mut self, entries: &[IndexEntry]) {
        let VerifyLevel::Subset(subset) = self.options.level else { return };
        let whole = entries.iter().filter_map(|e| self.archive.examine(e).ok());
        let picker = Picker::new(subset, whole.map(|stored| frames_of(&stored)).sum());
        self.report.subset = Some(picker.report());
        self.picker = Some(picker);
    }

    /// Checks one variant or base vector; says whether its records are whole.
    fn variant(&mut self, entry: &IndexEntry) -> Result<bool> {
        self.report.variants.push(entry.name.clone());
        let stored = match self.archive.examine(entry) {
            Ok(stored) => stored,
            Err(records) => {
                for bad in records {
                    self.fault(Whose::Variant(&entry.name), bad.offset, &bad.error);
                }
                return Ok(false);
            }
        };
        self.lost(&stored);
        if matches!(self.options.level, VerifyLevel::Structure | VerifyLevel::Subset(_)) {
            self.headers(&stored)?;
        }
        if self.options.level != VerifyLevel::Structure {
            self.tiles(entry, &stored)?;
            self.side_files(&stored)?;
        }
        Ok(true)
    }

    /// Lists what a recover could not save of a variant.
    fn lost(&mut self, stored: &Stored) {
        // What cannot be read is a fault that is found elsewhere.
        let lost = self.archive.lost(stored).unwrap_or_default();
        let variant = &stored.head.name;
        for i in lost.tensors {
            let (variant, tensor) = (variant.clone(), Some(stored.tensors[i].name.clone()));
            self.report.lost.push(Lost { variant, tensor, side_file: None });
        }
        let vector = stored.head.shift.and_then(|shift| shift.vector);
        self.lacking = vector.map_or_else(HashSet::new, |id| self.lacking(stored, id));
        for i in lost.side_files {
            let (variant, file) = (variant.clone(), Some(stored.head.side_files[i].name.clone()));
            self.report.lost.push(Lost { variant, tensor: None, side_file: file });
        }
    }

    /// Tensors of a variant by whose names the base vector with this id has lost ones.
    fn lacking(&self, stored: &Stored, id: u32) -> HashSet<usize> {
        let Ok(vector) = self.archive.load_vector(id) else { return HashSet::new() };
        let lost = self.archive.lost(&vector).unwrap_or_default();
        let names: HashSet<&str> =
            lost.tensors.iter().map(|i| vector.tensors[*i].name.as_str()).collect();
        let all = stored.tensors.iter().enumerate();
        all.filter(|(_, t)| names.contains(t.name.as_str())).map(|(i, _)| i).collect()
    }

    /// Holds the header of each of a variant's frames to its place.
    fn headers(&mut self, stored: &Stored) -> Result<()> {
        for (i, seal) in stored.seal.tensors.iter().enumerate() {
            let run = (Kind::Tile, i, seal.offset, &seal.frame_lens[..]);
            self.headers_of(stored, run, |part| Whose::Tensor(stored, i, part))?;
        }
        for (i, seal) in stored.seal.blobs.iter().enumerate() {
            let run = (Kind::Blob, i, seal.offset, &seal.frame_lens[..]);
            self.headers_of(stored, run, |part| Whose::SideFile(stored, i, part))?;
        }
        Ok(())
    }

    /// The headers of frames that stand one after the other: kind, item, where, and their lengths.
    fn headers_of<'s>(
        &mut self,
        stored: &Stored,
        (kind, item, mut at, lens): (Kind, usize, u64, &[u32]),
        whose: impl Fn(u64) -> Whose<'s>,
    ) -> Result<()> {
        for (part, len) in (0..).zip(lens) {
            self.observer.check()?;
            let (variant, item) = (stored.id, item as u32);
            let wanted = Label { kind, codec: 0, variant, item, part };
            match self.archive.check_header(at, *len, wanted) {
                Ok(()) => self.report.headers += 1,
                Err(e) => self.fault(whose(u64::from(part)), at, &e),
            }
            at += u64::from(*len);
        }
        Ok(())
    }

    /// Reads a variant's tiles and expands or decodes them.
    fn tiles(&mut self, entry: &IndexEntry, stored: &Stored) -> Result<()> {
        let all: Vec<_> = (0..stored.tensors.len()).collect();
        let wanted = sources(stored, &all);
        let shift = match load_shift(self.archive, stored) {
            Err(e) if e.is_damage() => {
                self.fault(Whose::Variant(&entry.name), entry.head_offset, &e);
                None
            }
            shift => Some(shift?),
        };
        // Without its vector nothing can be said of what a variant decodes to.
        let base = self.base.filter(|_| shift.is_some());
        if let Some(base) = base {
            base.check(stored, &wanted)?;
        }
        let shift = shift.flatten();
        let (archive, shift, spares) = (self.archive, shift.as_ref(), Spares::default());
        self.read(&DecodeStage { archive, stored, base, shift, wanted: &wanted, spares })
    }

    fn read(&mut self, stage: &DecodeStage<'_>) -> Result<()> {
        let mut picker = self.picker.take();
        self.observer.stage("verify");
        let mut check = HashCheck::new(stage);
        let (mut done, total, mut broken) = (0, stage.total_bytes(), None);
        run_frames(
            stage,
            (stage.needs(), &self.options.resources),
            picker.as_mut(),
            DecodeState::new,
            |state, job| stage.examine(state, job, stage.base.is_some()),
            |examined| {
                self.observer.check()?;
                match examined {
                    Examined::Whole(tile) => {
                        done += self.whole(stage, &mut check, tile, broken)?;
                        self.observer.progress(done, total);
                    }
                    Examined::Damaged(bad) => {
                        // What is left of the tensor cannot be held to its hash.
                        broken = Some(bad.tensor);
                        check.forget();
                        self.damaged(stage, &bad);
                    }
                }
                Ok(())
            },
        )?;
        self.picker = picker;
        Ok(())
    }

    /// Reports a tile that cannot be expanded or decoded: as damaged, or as lost with its vector's. What
    /// is lost itself was listed before.
    fn damaged(&mut self, stage: &DecodeStage<'_>, bad: &BadTile) {
        if bad.is_lost() {
            return;
        }
        if !self.lacking.contains(&bad.tensor) || !bad.is_whole() {
            let whose = Whose::Tensor(stage.stored, bad.tensor, bad.part);
            return self.fault(whose, bad.offset, &bad.error);
        }
        let (variant, t) = (&stage.stored.head.name, &stage.stored.tensors[bad.tensor]);
        let (variant, tensor) = (variant.clone(), Some(t.name.clone()));
        let lost = Lost { variant, tensor, side_file: None };
        // Its other tiles come right after.
        if self.report.lost.last() != Some(&lost) {
            self.report.lost.push(lost);
        }
    }

    /// Counts a tile, and holds its tensor to its hash unless that is broken or nothing is decoded.
    /// Returns the bytes that it restores to.
    fn whole(
        &mut self,
        stage: &DecodeStage<'_>,
        check: &mut HashCheck<'_>,
        tile: Decoded,
        broken: Option<usize>,
    ) -> Result<u64> {
        self.report.frames += 1;
        self.report.bytes += tile.stored_len();
        let t = &stage.stored.tensors[tile.tensor];
        let is_hashed = stage.base.is_some() && broken != Some(tile.tensor);
        if is_hashed && check.add(&tile)? == Some(false) {
            let (variant, tensor) = (stage.stored.head.name.clone(), t.name.clone());
            self.report.differing.push(Differing { variant, tensor });
        }
        let n_bytes = (tile.tile.n_elements() * t.dtype.lane_bytes()) as u64;
        check.done(tile);
        Ok(n_bytes)
    }

    /// Reads the pieces of a variant's side files.
    fn side_files(&mut self, stored: &Stored) -> Result<()> {
        for item in 0..stored.head.side_files.len() {
            let lens = &stored.seal.blobs[item].frame_lens;
            let mut pieces = BlobPieces::new(self.archive, stored, item)?;
            let mut n_whole = 0;
            for (part, len) in (0..).zip(lens) {
                if self.picker.as_mut().is_some_and(|picker| !picker.pick()) {
                    pieces.step();
                    continue;
                }
                match pieces.next_piece() {
                    Some((offset, Err(e))) if e.is_damage() => {
                        let is_lost = self.archive.has_placeholder(offset, &[*len]);
                        if !is_lost.unwrap_or(false) {
                            self.fault(Whose::SideFile(stored, item, part), offset, &e);
                        }
                    }
                    Some((_, piece)) => {
                        piece?;
                        n_whole += 1;
                        self.report.frames += 1;
                        self.report.bytes += u64::from(*len);
                    }
                    None => {}
                }
            }
            if n_whole == lens.len()
                && let Err(e) = pieces.check()
            {
                let offset = stored.seal.blobs[item].offset;
                self.fault(Whose::SideFile(stored, item, 0), offset, &e);
            }
        }
        Ok(())
    }

    /// Looks at the parity file, if the whole archive is checked.
    fn parity(&mut self, path: &Path) -> Result<()> {
        if self.options.name.is_some() {
            return Ok(());
        }
        let is_damaged = self.report.n_faults > 0;
        let found = parity::report(path, self.options, is_damaged, self.observer)?;
        if let Some((offset, error)) = found.as_ref().and_then(parity::missing_end) {
            self.fault(Whose::Nobody, offset, &error);
        }
        self.report.parity = found;
        Ok(())
    }

    /// Goes through the file for what no variant accounts for; `whole` are the ids of those whose records
    /// are whole.
    fn file(&mut self, whole: &[u32]) -> Result<()> {
        let archive = self.archive;
        let bodies = matches!(self.options.level, VerifyLevel::Frames | VerifyLevel::Decode(_));
        let headers = archive.examine_file(whole, bodies, &mut |stray: Stray| {
            self.observer.check()?;
            let mut entries = archive.index.entries.iter();
            let entry = stray.variant.and_then(|id| entries.find(|e| e.id == id));
            let whose = entry.map_or(Whose::Nobody, |e| Whose::Variant(&e.name));
            self.fault(whose, stray.offset, &stray.error);
            Ok(())
        })?;
        self.report.headers = headers;
        Ok(())
    }
}

/// Tiles and pieces of a variant.
fn frames_of(stored: &Stored) -> u64 {
    let tiles = stored.seal.tensors.iter().map(|t| t.frame_lens.len());
    let pieces = stored.seal.blobs.iter().map(|b| b.frame_lens.len());
    tiles.chain(pieces).map(|n| n as u64).sum()
}
