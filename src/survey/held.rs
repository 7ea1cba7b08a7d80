//! Directions that a survey found, held until their tile is encoded, so that they need not be found again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most bytes that all tiles together hold. What finds no room is found again, and is the same.
pub(crate) const MOST: u64 = 32 << 20;

/// The room that is taken by directions that are held.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room(Arc<AtomicU64>);

/// The right codes of a tile's directions, as in [`Factors`](crate::kernel::low_rank::Factors).
#[derive(Debug)]
pub(crate) struct Held {
    right: Vec<i8>,
    room: Room,
}

impl PartialEq for Room {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.right == other.right
    }
}

impl Room {
    /// Holds these codes; `None` if there is no room for them.
    pub(crate) fn hold(&self, mut right: Vec<i8>) -> Option<Arc<Held>> {
        right.shrink_to_fit();
        let more = right.len() as u64;
        let taken = |taken: u64| Some(taken + more).filter(|sum| *sum <= MOST);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).ok()?;
        Some(Arc::new(Held { right, room: self.clone() }))
    }
}

impl Held {
    /// The codes.
    pub(crate) fn right(&self) -> &[i8] {
        &self.right
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.0.fetch_sub(self.right.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_ends_and_comes_back() {
        let room = Room::default();
        let half = || vec![1; MOST as usize / 2];
        let (first, second) = (room.hold(half()), room.hold(half()));
        assert!(first.as_ref().is_some_and(|held| held.right() == half()) && second.is_some());
        assert_eq!(room.hold(vec![1]), None);
        drop(first);
        assert!(room.hold(half()).is_some() && room.hold(vec![1; MOST as usize / 2 + 1]).is_none());
    }
}
