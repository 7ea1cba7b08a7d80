//! Writes what is whole of a damaged archive into a new one.
//!
//! Frames keep their bytes; in the place of each that is damaged stands one without content that says so
//! ([`lost`](crate::archive::lost)), and the seal says where they stand now. A variant whose head or seal
//! is damaged is lost, unless the seal can be made anew ([`reseal`](crate::archive::reseal)).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::archive::index::{Index, IndexEntry};
use crate::archive::lock::{is_at, open_file, refuse_existing};
use crate::archive::lost::{placeholder, stands_for_lost};
use crate::archive::part;
use crate::archive::reader::{Stored, join};
use crate::archive::record::{Head, Seal};
use crate::archive::reseal::{Places, Rehash, blank, places, stand};
use crate::archive::store::FrameStore;
use crate::archive::traces::{Candidate, Held, Traces};
use crate::archive::writer::{ArchiveWriter, Place};
use crate::checkpoint::{Locked, parse_header};
use crate::codec::{CodecId, LOST};
use crate::error::{Error, ErrorKind, Result};
use crate::frame::{Kind, Label};

/// What came of a damaged archive.
#[derive(Debug)]
pub(crate) struct Rescue {
    /// Variants and base vectors that it held as far as is known, saved or not.
    pub(crate) variants: Vec<Rescued>,
    /// The generation whose index told of them; `None` if none was left.
    pub(crate) index: Option<u32>,
    /// Bytes of the damaged file, those of it that are no frame, and bytes of the new one.
    pub(crate) bytes_before: u64,
    pub(crate) gap_bytes: u64,
    pub(crate) bytes_after: u64,
}

/// What came of a variant or base vector.
#[derive(Debug)]
pub(crate) struct Rescued {
    pub(crate) name: String,
    pub(crate) is_vector: bool,
    /// Whether an index lists it; otherwise it was found by its frames alone.
    pub(crate) is_listed: bool,
    /// Whether its seal was lost and is made anew.
    pub(crate) is_sealed_anew: bool,
    /// Why nothing of it is in the new archive, if so.
    pub(crate) why_lost: Option<String>,
    /// Names of its tensors and side files, as far as known, and whether each is saved.
    pub(crate) tensors: Vec<(String, bool)>,
    pub(crate) side_files: Vec<(String, bool)>,
}

/// Writes what is whole of the archive at `path` as a new one at `output`. With `rehash` lost seals are made
/// anew. With `is_dry` all is done but for writing. `progress` hears of bytes copied and of all there are,
/// and may end the run.
///
/// # Errors
/// `Corrupt` if nothing can be saved; `Incompatible` if a newer tool wrote it; `InvalidArgument` if
/// `output` exists and `force` is not given, or is the damaged archive; `Io`, also if another process is
/// writing the archive. There is then no new file.
pub(crate) fn recover<'r>(
    path: &Path,
    output: &Path,
    (force, is_dry): (bool, bool),
    rehash: Option<&'r mut (dyn Rehash + 'r)>,
    mut progress: impl FnMut(u64, u64) -> Result<()>,
) -> Result<Rescue> {
    let file = open_file(path)?;
    // A writer adds frames that no index lists yet, and cuts off what one before it left.
    let file = Locked::against_writers(file, path)?;
    refuse_same(&file, output)?;
    part::refuse(&file, path)?;
    let bytes_before = file.metadata().map_err(|e| Error::io("examine", path, e))?.len();
    let frames = FrameStore::new(Arc::clone(&file), bytes_before);
    let traces = Traces::find(&frames, bytes_before, &mut || progress(0, bytes_before))?;
    let Held { candidates, next_id, generation, index } = traces.held(&frames);
    let generation = generation.checked_add(1);
    let generation = generation.ok_or_else(|| Error::corrupt("no generation is left"))?;
    let writer = match is_dry {
        false => ArchiveWriter::rebuild(output, force, next_id, generation)?,
        true => {
            refuse_existing(output, force)?;
            let dry = ArchiveWriter::dry_new(Index { next_id, entries: Vec::new() }, generation)?;
            // Seals are made anew by what stands in the new archive.
            if rehash.is_some() { dry.kept_meanwhile() } else { dry }
        }
    };
    let mut progress = |done: u64| progress(done.min(bytes_before), bytes_before);
    let had_base = rehash.is_some();
    let (done, frame) = (0, Vec::new());
    let missing = HashMap::new();
    let (frames, progress) = (&frames, &mut progress);
    let mut copy = Copy { frames, writer, rehash, progress, done, frame, missing };
    let variants = copy.all(&candidates)?;
    if variants.iter().all(|v| v.is_vector || v.why_lost.is_some()) {
        let held =
            if variants.is_empty() { "no variant can be found" } else { "no variant is whole" };
        let advice = if had_base || variants.is_empty() {
            ""
        } else {
            "; with the base (--base), a variant that lost no more than its seal can be"
        };
        let text = format!("{}: nothing can be saved: {held}{advice}", path.display());
        return Err(Error::corrupt(text));
    }
    let bytes_after = copy.writer.commit()?;
    Ok(Rescue { variants, index, bytes_before, gap_bytes: traces.gap_bytes, bytes_after })
}

/// What of a variant is in the new archive.
struct Saved {
    stored: Stored,
    is_sealed_anew: bool,
    /// Tensors and side files of which a frame is lost.
    lost_tensors: HashSet<usize>,
    lost_files: HashSet<usize>,
    /// Tensors with a tile that is decoded on a shifted base, if there is one.
    shifted: HashSet<usize>,
}

impl Saved {
    /// Whether all frames are there that tensor `i` is made of.
    fn has(&self, i: usize) -> bool {
        !self.lost_tensors.contains(&self.stored.head.items[i].source(i))
    }
}

/// Copies variants from a damaged file.
struct Copy<'a, 'r> {
    frames: &'a FrameStore,
    writer: ArchiveWriter,
    /// Makes lost seals anew.
    rehash: Option<&'r mut (dyn Rehash + 'r)>,
    /// Hears of bytes copied.
    progress: &'a mut dyn FnMut(u64) -> Result<()>,
    done: u64,
    frame: Vec<u8>,
    /// What the base vectors copied so far lack.
    missing: HashMap<u32, Missing>,
}

impl Copy<'_, '_> {
    /// Copies every variant of which something is whole, and the base vectors that they need.
    fn all(&mut self, candidates: &[Candidate]) -> Result<Vec<Rescued>> {
        // The base vector that each needs, if its records are whole.
        let mut needs = Vec::new();
        for candidate in candidates {
            needs.push(match self.load(candidate) {
                Ok((stored, found)) => {
                    if let (None, Some(rehash)) = (found, self.rehash.as_mut()) {
                        rehash.check(&stored)?;
                    }
                    Ok(stored.head.shift.and_then(|shift| shift.vector))
                }
                Err(e) => Err(e),
            });
        }
        let of_variants = candidates.iter().zip(&needs).filter(|(c, _)| !c.entry.is_vector());
        let needed: HashSet<u32> =
            of_variants.filter_map(|(_, need)| need.as_ref().ok().copied().flatten()).collect();
        let mut rescued = Vec::new();
        for (candidate, need) in candidates.iter().zip(&needs) {
            let entry = &candidate.entry;
            let why_lost = match need {
                Err(e) => Some(e.to_string()),
                Ok(_) if entry.is_vector() && !needed.contains(&entry.id) => continue,
                // Writers put a vector before whatever needs it.
                Ok(Some(id)) if !self.missing.contains_key(id) => {
                    Some(format!("the base vector {id} that it needs is lost"))
                }
                Ok(_) if self.writer.has_variant(&entry.name) => {
                    Some("another variant has its name".to_owned())
                }
                Ok(_) => None,
            };
            let saved = match &why_lost {
                None => self.variant(candidate)?,
                Some(_) => None,
            };
            let all_damaged = || "all of its frames are damaged".to_owned();
            let why_lost = why_lost.or_else(|| saved.is_none().then(all_damaged));
            let (tensors, side_files) = match &saved {
                Some(saved) => saved.claims(&self.missing),
                None => names(self.frames, candidate),
            };
            if let Some(saved) = saved.as_ref().filter(|_| entry.is_vector()) {
                self.missing.insert(entry.id, saved.missing());
            }
            rescued.push(Rescued {
                name: entry.name.clone(),
                is_vector: entry.is_vector(),
                is_listed: candidate.is_listed,
                is_sealed_anew: saved.is_some_and(|saved| saved.is_sealed_anew),
                why_lost,
                tensors,
                side_files,
            });
        }
        Ok(rescued)
    }

    /// A variant, and where its frames stand if its seal is lost and made anew.
    fn load(&self, candidate: &Candidate) -> Result<(Stored, Option<Places>)> {
        let entry = &candidate.entry;
        // The head is what people miss first.
        let head = candidate.head(self.frames)?;
        match candidate.seal(self.frames) {
            // What a newer tool says in a seal cannot be made anew.
            Err(e) if self.rehash.is_some() && e.kind() != ErrorKind::Incompatible => {
                let seal = blank(&head, self.frames.file_len()?)?;
                let stored = Stored::new(entry.id, head, seal, entry.head_len)?;
                Ok((stored, Some(places(self.frames, entry)?)))
            }
            seal => Ok((join(entry, head, seal?, u64::MAX)?, None)),
        }
    }

    /// Copies head, tiles and pieces, and writes a seal with their new places; `None` if no frame of a
    /// variant is whole.
    fn variant(&mut self, candidate: &Candidate) -> Result<Option<Saved>> {
        let entry = &candidate.entry;
        let (stored, found) = self.load(candidate)?;
        let mut seal = stored.seal.clone();
        let head = self.head(entry)?;
        let (mut lost_tensors, mut lost_files) = (HashSet::new(), HashSet::new());
        let mut shifted = HashSet::new();
        for (item, t) in seal.tensors.iter_mut().enumerate() {
            let of = (Kind::Tile, entry.id, item);
            let at = stand(found.as_ref(), of, t.offset, &t.frame_lens);
            let run = self.run(of, &at, &mut t.frame_lens)?;
            t.offset = run.offset;
            if run.is_lost {
                lost_tensors.insert(item);
            }
            if run.is_shifted && stored.head.shift.is_some() {
                shifted.insert(item);
            }
        }
        for (item, blob) in seal.blobs.iter_mut().enumerate() {
            let of = (Kind::Blob, entry.id, item);
            let at = stand(found.as_ref(), of, blob.offset, &blob.frame_lens);
            let run = self.run(of, &at, &mut blob.frame_lens)?;
            blob.offset = run.offset;
            if run.is_lost {
                lost_files.insert(item);
            }
        }
        let tensors = seal.tensors.iter().map(|t| !t.frame_lens.is_empty());
        let has_frames = tensors.chain(seal.blobs.iter().map(|b| !b.frame_lens.is_empty()));
        let n_lost = lost_tensors.len() + lost_files.len();
        let nothing = n_lost > 0 && n_lost == has_frames.filter(|has| *has).count();
        // What variants need of a base vector may be none of its tensors.
        if nothing && !entry.is_vector() {
            return Ok(None);
        }
        let is_sealed_anew = found.is_some();
        if is_sealed_anew {
            let (tensors, files) = self.rehash(entry, &stored.head, &mut seal)?;
            lost_tensors.extend(tensors);
            lost_files.extend(files);
        }
        self.writer.seal(entry.id, &entry.name, head, &seal)?;
        Ok(Some(Saved { stored, is_sealed_anew, lost_tensors, lost_files, shifted }))
    }

    /// Works out the hashes of a seal from the frames that it says. Returns tensors and side files that
    /// have none.
    fn rehash(
        &mut self,
        entry: &IndexEntry,
        head: &Head,
        seal: &mut Seal,
    ) -> Result<(Vec<usize>, Vec<usize>)> {
        let archive = self.writer.so_far()?;
        let stored = Stored::new(entry.id, head.clone(), seal.clone(), entry.head_len)?;
        let rehash = self.rehash.as_mut();
        let rehash = rehash.ok_or_else(|| Error::corrupt("its seal is lost"))?;
        Ok(rehash.hashes(&archive, &stored)?.fill(seal))
    }

    /// Copies the head, which was read already.
    fn head(&mut self, entry: &IndexEntry) -> Result<Place> {
        self.frames.read(entry.head_offset, entry.head_len as usize, &mut self.frame)?;
        Ok(Place { offset: self.writer.write(&self.frame)?, len: entry.head_len })
    }

    /// Copies the frames of this kind, variant and item that stand at these places, one after the other.
    /// `lens` becomes what they are long now.
    fn run(
        &mut self,
        (kind, variant, item): (Kind, u32, usize),
        places: &[(u64, u32)],
        lens: &mut [u32],
    ) -> Result<Run> {
        let mut run = Run { offset: 0, is_lost: false, is_shifted: false };
        for (part, ((at, stored_len), len)) in (0..).zip(places.iter().zip(lens)) {
            let label = Label { kind, codec: 0, variant, item: item as u32, part };
            let codec = self.whole(label, *at, *stored_len as usize);
            self.done += u64::from(*stored_len);
            *len = *stored_len;
            let offset = match codec {
                Some(codec) => {
                    run.is_lost |= codec == LOST;
                    run.is_shifted |= codec != CodecId::Planes as u16;
                    self.writer.write(&self.frame)?
                }
                None => {
                    run.is_lost = true;
                    let place = self.writer.write_frame(placeholder(label), &[])?;
                    *len = place.len as u32;
                    place.offset
                }
            };
            run.offset = if part == 0 { offset } else { run.offset };
            (self.progress)(self.done)?;
        }
        Ok(run)
    }

    /// Reads the frame at a place into `self.frame`; its codec, if it is whole and the one that belongs
    /// there.
    fn whole(&mut self, wanted: Label, at: u64, len: usize) -> Option<u16> {
        let header = self.frames.read_whole(at, len, &mut self.frame).ok()?;
        let codec = header.label.codec;
        let is_known = wanted.kind == Kind::Tile || codec == 0 || stands_for_lost(&header);
        (is_known && header.label.is_but_for_codec(wanted)).then_some(codec)
    }
}

/// Frames that were copied.
struct Run {
    /// Where they stand now; 0 if there are none.
    offset: u64,
    /// Whether one of them is lost.
    is_lost: bool,
    /// Whether one is decoded on a shifted base, where there is one.
    is_shifted: bool,
}

/// Names and shapes of tensors of a base vector that are lost.
type Missing = HashMap<String, Vec<u64>>;

/// Names, and whether each is saved.
type Claims = Vec<(String, bool)>;

impl Saved {
    fn missing(&self) -> Missing {
        let all = self.stored.tensors.iter().enumerate();
        let lost = all.filter(|(i, _)| !self.has(*i));
        lost.map(|(_, t)| (t.name.clone(), t.shape.clone())).collect()
    }

    /// Which tensors and side files can be restored, given what is missing of base vectors.
    fn claims(&self, missing: &HashMap<u32, Missing>) -> (Claims, Claims) {
        let head = &self.stored.head;
        let shift = head.shift.filter(|shift| shift.lambda != 0.0);
        let vector = shift.and_then(|shift| missing.get(&shift.vector?));
        let tensors = self.stored.tensors.iter().enumerate().map(|(i, t)| {
            // A tensor is shifted along that of its tiles' name, if the shapes agree.
            let of = head.items[i].source(i);
            let tiles = &self.stored.tensors[of];
            let lacks_shift = self.shifted.contains(&of)
                && vector.is_some_and(|v| v.get(&tiles.name).is_some_and(|s| *s == tiles.shape));
            (t.name.clone(), self.has(i) && !lacks_shift)
        });
        let files = head.side_files.iter().enumerate();
        let files = files.map(|(i, f)| (f.name.clone(), !self.lost_files.contains(&i)));
        (tensors.collect(), files.collect())
    }
}

/// Names of the tensors and side files of a variant that is lost, if its head tells.
fn names(frames: &FrameStore, candidate: &Candidate) -> (Claims, Claims) {
    let Ok(Head { shards, side_files, .. }) = candidate.head(frames) else {
        return (Vec::new(), Vec::new());
    };
    let mut tensors = Vec::new();
    for (i, shard) in shards.iter().enumerate() {
        let found = parse_header(&shard.header, shard.file_len, i, "stored header");
        tensors.extend(found.unwrap_or_default().into_iter().map(|t| (t.name, false)));
    }
    (tensors, side_files.into_iter().map(|f| (f.name, false)).collect())
}

/// Refuses to write a new archive over the damaged one.
fn refuse_same(file: &File, output: &Path) -> Result<()> {
    if is_at(file, output) {
        let text = format!("{} is the damaged archive; choose another file", output.display());
        return Err(Error::invalid_argument(text));
    }
    Ok(())
}
