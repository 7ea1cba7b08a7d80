//! What a walk through a damaged archive finds, and which variants it held as far as that tells.
//!
//! The newest index that is left names the variants of its generation. What stands in the file under
//! later ids came after it, or all of it if no index is left. Frames found behind a gap may belong to an
//! archive inside a side file, so what is found has to stand where it says that it stands.

use std::collections::{BTreeMap, BTreeSet};

use crate::archive::format::{FOOTER_LEN, Footer, PREAMBLE};
use crate::archive::index::{Index, IndexEntry};
use crate::archive::reader::record;
use crate::archive::record::{Head, Seal};
use crate::archive::store::FrameStore;
use crate::archive::walk::Found;
use crate::archive::writer::Place;
use crate::error::{Error, Result};
use crate::frame::{HEADER_LEN, Kind};

/// Frames of one kind and id that are tried: a whole archive has one head and one seal of each id.
const MAX_TRIES: usize = 64;

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// Heads and seals by the ids of their variants, and indexes with their generations, in order.
    heads: BTreeMap<u32, Vec<Place>>,
    seals: BTreeMap<u32, Vec<Place>>,
    indexes: Vec<(u32, Place)>,
    footers: Vec<Footer>,
    /// Ids that frames carry.
    ids: BTreeSet<u32>,
    /// Bytes that are neither frame nor footer.
    pub(super) gap_bytes: u64,
}

/// A variant or base vector that the archive held.
#[derive(Debug)]
pub(super) struct Candidate {
    /// Its place; lengths are 0 for records that were not found.
    pub(super) entry: IndexEntry,
    /// Whether an index lists it.
    pub(super) is_listed: bool,
}

/// What can be said of an archive as a whole.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// By id.
    pub(super) candidates: Vec<Candidate>,
    pub(super) next_id: u32,
    /// The newest generation of which there is a trace; 0 if there is none.
    pub(super) generation: u32,
    /// The generation whose index is used; `None` if none is left.
    pub(super) index: Option<u32>,
}

impl Traces {
    /// Walks through a whole file.
    ///
    /// # Errors
    /// `Incompatible` at the footer of a newer tool; what `alive` says, which is asked at every step.
    pub(super) fn find(
        frames: &FrameStore,
        len: u64,
        alive: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Self> {
        let mut traces = Self::default();
        let mut walk = frames.walk(PREAMBLE.len() as u64, len);
        while let Some(found) = walk.next()? {
            alive()?;
            match found {
                Found::Frame { offset, header } => {
                    let of = header.label.variant;
                    let len = HEADER_LEN as u64 + u64::from(header.body_len);
                    let here = Place { offset, len };
                    match header.label.kind {
                        Kind::Head => traces.heads.entry(of).or_default().push(here),
                        Kind::Seal => traces.seals.entry(of).or_default().push(here),
                        Kind::Index => traces.indexes.push((of, here)),
                        Kind::Tile | Kind::Blob => {}
                    }
                    if header.label.kind != Kind::Index {
                        traces.ids.insert(of);
                    }
                }
                Found::Footer(footer) => traces.footers.push(footer),
                Found::Gap { len, .. } => traces.gap_bytes += len,
                Found::Unknown { .. } => {}
            }
        }
        Ok(traces)
    }

    /// The variants that the archive held.
    pub(super) fn held(&self, frames: &FrameStore) -> Held {
        let index = self.newest_index(frames);
        let of_footers = self.footers.iter().map(|f| f.generation).max();
        let generation = index.as_ref().map(|(generation, _)| *generation);
        let mut held = Held {
            generation: of_footers.max(generation).unwrap_or(0),
            index: generation,
            ..Held::default()
        };
        if let Some((_, index)) = index {
            held.next_id = index.next_id;
            let listed = |entry| Candidate { entry, is_listed: true };
            held.candidates = index.entries.into_iter().map(listed).collect();
        }
        for id in self.ids.range(held.next_id..) {
            let entry = self.unlisted(frames, *id);
            // Names are unique: an older one of the same name was removed.
            held.candidates.retain(|c| c.entry.name != entry.name || entry.seal_len == 0);
            held.candidates.push(Candidate { entry, is_listed: false });
        }
        let after = held.candidates.iter().map(|c| c.entry.id.saturating_add(1)).max();
        held.next_id = held.next_id.max(after.unwrap_or(0));
        held
    }

    /// The newest index that is whole and stands where an index of this file stands: behind a seal that
    /// it lists, behind a footer or the preamble, or before a footer that says so.
    fn newest_index(&self, frames: &FrameStore) -> Option<(u32, Index)> {
        let mut newest_first: Vec<_> = self.indexes.iter().collect();
        newest_first.sort_by_key(|(generation, at)| std::cmp::Reverse((*generation, at.offset)));
        newest_first.into_iter().take(MAX_TRIES).find_map(|(generation, at)| {
            let bytes = record(frames, Kind::Index, *generation, at.offset, at.len).ok()?;
            let index = Index::parse(&bytes).ok()?;
            let ends_here =
                |e: &IndexEntry| e.seal_offset.checked_add(e.seal_len) == Some(at.offset);
            let is_here = at.offset == PREAMBLE.len() as u64
                || self.footers.iter().any(|f| {
                    f.index_offset == at.offset || f.offset + FOOTER_LEN as u64 == at.offset
                })
                || index.entries.iter().any(ends_here);
            is_here.then_some((*generation, index))
        })
    }

    /// Where the records of a variant stand that no index lists. One without a head has no name.
    fn unlisted(&self, frames: &FrameStore, id: u32) -> IndexEntry {
        let nameless = IndexEntry {
            id,
            name: format!("(variant {id}, whose name is lost)"),
            head_offset: 0,
            head_len: 0,
            seal_offset: 0,
            seal_len: 0,
        };
        let of_id = |all: &BTreeMap<u32, Vec<Place>>| -> Vec<Place> {
            all.get(&id).into_iter().flatten().take(MAX_TRIES).copied().collect()
        };
        let seals: Vec<_> = of_id(&self.seals)
            .into_iter()
            .filter_map(|at| Some((at, seal_at(frames, id, at).ok()?)))
            .collect();
        let mut found = nameless;
        for head in of_id(&self.heads) {
            let Ok(Head { name, .. }) = head_at(frames, id, head) else { continue };
            let (head_offset, head_len) = (head.offset, head.len);
            let named = IndexEntry { name, head_offset, head_len, ..found.clone() };
            if let Some((at, _)) = seals.iter().find(|(at, seal)| stands_between(head, seal, *at)) {
                return IndexEntry { seal_offset: at.offset, seal_len: at.len, ..named };
            }
            if found.head_len == 0 {
                found = named;
            }
        }
        found
    }
}

fn head_at(frames: &FrameStore, id: u32, at: Place) -> Result<Head> {
    Head::parse(&record(frames, Kind::Head, id, at.offset, at.len)?)
}

fn seal_at(frames: &FrameStore, id: u32, at: Place) -> Result<Seal> {
    Seal::parse(&record(frames, Kind::Seal, id, at.offset, at.len)?)
}

/// Whether a seal puts its frames from the head's end to itself, as writers do. One of an archive inside a
/// side file counts offsets from that archive's start, so it cannot, nor can it with a head from there.
fn stands_between(head: Place, seal: &Seal, at: Place) -> bool {
    let tensors = seal.tensors.iter().map(|t| (t.offset, &t.frame_lens));
    let runs = tensors.chain(seal.blobs.iter().map(|b| (b.offset, &b.frame_lens)));
    let mut end = head.offset.saturating_add(head.len);
    for (offset, lens) in runs.filter(|(_, lens)| !lens.is_empty()) {
        if offset != end {
            return false;
        }
        end = lens.iter().fold(end, |end, n| end.saturating_add(u64::from(*n)));
    }
    end == at.offset
}

impl Candidate {
    /// Its head.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn head(&self, frames: &FrameStore) -> Result<Head> {
        let e = &self.entry;
        if e.head_len == 0 {
            return Err(Error::corrupt("its head is lost"));
        }
        head_at(frames, e.id, Place { offset: e.head_offset, len: e.head_len })
    }

    /// Its seal.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn seal(&self, frames: &FrameStore) -> Result<Seal> {
        let e = &self.entry;
        if e.seal_len == 0 {
            return Err(Error::corrupt("its seal is lost"));
        }
        seal_at(frames, e.id, Place { offset: e.seal_offset, len: e.seal_len })
    }
}
