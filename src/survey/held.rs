//! What a survey found of a tile and its encode would find again: held in between as far as there is room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes that all tiles of a run together hold. What finds no room is found again, and is the same.
pub(crate) const MOST: u64 = 32 << 20;

/// The room that is taken by what is held; as a setting any is like any other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room(Arc<AtomicU64>);

/// What is held of a tile.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: Vec<u8>,
    room: Room,
}

impl PartialEq for Room {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Room {
    /// Holds a copy of these bytes; `None` if there is no room for it.
    pub(crate) fn hold(&self, bytes: &[u8]) -> Option<Arc<Held>> {
        let more = bytes.len() as u64;
        let taken = |taken: u64| Some(taken + more).filter(|sum| *sum <= MOST);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        Some(Arc::new(Held { bytes: bytes.to_vec(), room: self.clone() }))
    }
}

impl Held {
    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.0.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_ends_and_comes_back() {
        let room = Room::default();
        let most = vec![1; MOST as usize];
        let half = &most[most.len() / 2..];
        let (first, second) = (room.hold(half), room.hold(half));
        assert!(first.as_ref().is_some_and(|held| held.bytes() == half) && second.is_some());
        assert_eq!(room.hold(&[1]), None);
        drop(first);
        assert!(room.hold(half).is_some() && room.hold(&most[..half.len() + 1]).is_none());
    }
}
