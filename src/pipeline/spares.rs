//! Buffers of tiles that are written, to be used for tiles that come: a run allocates for as many tiles as
//! are alive at once, and then no more.

use crossbeam::queue::SegQueue;

/// Emptied buffers, shared by workers and sink. Frames and tiles are kept apart, since a tile's buffer
/// keeps its length and need not be zeroed again.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    frames: SegQueue<Vec<u8>>,
    tiles: SegQueue<Vec<u8>>,
}

impl Spares {
    /// An empty buffer for a frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut buffer = self.frames.pop().unwrap_or_default();
        buffer.clear();
        buffer
    }

    /// A buffer of `n` bytes, whatever they are: for a tile that is written in full.
    pub(crate) fn tile(&self, n: usize) -> Vec<u8> {
        let mut buffer = self.tiles.pop().unwrap_or_default();
        buffer.resize(n, 0);
        buffer
    }

    pub(crate) fn give_frame(&self, buffer: Vec<u8>) {
        self.frames.push(buffer);
    }

    pub(crate) fn give_tile(&self, buffer: Vec<u8>) {
        // One that never held a tile would only make the list longer.
        if !buffer.is_empty() {
            self.tiles.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_with_their_room() {
        let spares = Spares::default();
        spares.give_frame(vec![1; 100]);
        spares.give_tile(vec![2; 100]);
        let frame = spares.frame();
        assert!(frame.is_empty() && frame.capacity() >= 100);
        let tile = spares.tile(60);
        assert_eq!((tile.len(), tile.capacity() >= 100), (60, true));
        assert_eq!((spares.frame().capacity(), spares.tile(3)), (0, vec![0; 3]));
    }
}
