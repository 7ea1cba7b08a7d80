//! What a survey found of a tile and its encode would find again: held in between as far as there is room.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most bytes that all tiles of a run together hold. What finds no room is found again, and is the same.
pub(crate) const MOST: u64 = 32 << 20;

/// The room that is taken by what is held; as a setting any is like any other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room(Arc<Taken>);

#[derive(Debug, Default)]
struct Taken {
    bytes: AtomicU64,
    /// Of tiles that are held no more, to be used again.
    spare: Mutex<Vec<Vec<u8>>>,
}

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
        self.0.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        let mut copy = self.spare().pop().unwrap_or_default();
        copy.extend_from_slice(bytes);
        Some(Arc::new(Held { bytes: copy, room: self.clone() }))
    }

    fn spare(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.spare.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.room.0.bytes.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.room.spare().push(bytes);
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
