//! The record of a generation: the variants and base vectors it holds.

use crate::archive::record::list;
use crate::error::Result;
use crate::wire::{Reader, Writer};

/// A variant or base vector as an index lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) head_offset: u64,
    pub(crate) head_len: u64,
    pub(crate) seal_offset: u64,
    pub(crate) seal_len: u64,
}

/// The variants and base vectors of one generation, and the id the next one gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Index {
    pub(crate) next_id: u32,
    pub(crate) entries: Vec<IndexEntry>,
}

/// What the name of a base vector begins with; no variant's does.
pub(crate) const VECTOR_MARK: char = '@';

impl IndexEntry {
    /// Whether it is a base vector, which is no fine-tune of its own.
    pub(crate) fn is_vector(&self) -> bool {
        self.name.starts_with(VECTOR_MARK)
    }
}

impl Index {
    /// The fine-tunes, oldest first.
    pub(crate) fn variants(&self) -> impl Iterator<Item = &IndexEntry> {
        self.entries.iter().filter(|e| !e.is_vector())
    }

    /// The base vectors, oldest first.
    pub(crate) fn vectors(&self) -> impl Iterator<Item = &IndexEntry> {
        self.entries.iter().filter(|e| e.is_vector())
    }

    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut w = Writer::default();
        w.u32(self.next_id);
        w.count(self.entries.len())?;
        for v in &self.entries {
            w.u32(v.id);
            w.str(&v.name)?;
            for word in [v.head_offset, v.head_len, v.seal_offset, v.seal_len] {
                w.u64(word);
            }
        }
        Ok(w.0)
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let r = &mut Reader::new(bytes);
        let next_id = r.u32()?;
        let entries = list(r, 40, |r| {
            Ok(IndexEntry {
                id: r.u32()?,
                name: r.str()?,
                head_offset: r.u64()?,
                head_len: r.u64()?,
                seal_offset: r.u64()?,
                seal_len: r.u64()?,
            })
        })?;
        r.end()?;
        Ok(Self { next_id, entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_comes_back_and_tells_vectors_from_variants() {
        let entry = |id, name: &str| IndexEntry {
            id,
            name: name.into(),
            head_offset: 1,
            head_len: 2,
            seal_offset: 3,
            seal_len: 4,
        };
        let index = Index { next_id: 9, entries: vec![entry(3, "v"), entry(4, "@shared")] };
        assert_eq!(Index::parse(&index.to_bytes().unwrap()).unwrap(), index);
        assert_eq!(index.variants().map(|e| e.id).collect::<Vec<_>>(), [3]);
        assert_eq!(index.vectors().map(|e| e.id).collect::<Vec<_>>(), [4]);
    }
}
