//! What `--max-memory` buys: how many workers and how many live tiles.

use std::fs;

use crate::checkpoint::bytes_of;
use crate::error::{Error, Result};
use crate::pipeline::ordered::Width;

/// Default memory limit.
pub const DEFAULT_MAX_MEMORY: u64 = 512 << 20;
/// The program itself, its tables and stacks.
const FIXED: u64 = 24 << 20;
/// zstd's own state and the transform's tables, a worker.
const WORKER_STATE: u64 = 4 << 20;
/// More live tiles than this a worker only hold memory.
const PERMITS_PER_WORKER: usize = 4;

/// What one run needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Bytes of headers, plans and surveys that stay for the whole run.
    pub(crate) resident: u64,
    /// Bytes of one live tile: both windows, the restored tile, the frame.
    pub(crate) tile: u64,
    /// Bytes of one worker's buffers.
    pub(crate) worker: u64,
}

impl Needs {
    /// Nothing.
    pub(crate) const NONE: Needs = Needs { resident: 0, tile: 0, worker: 0 };

    fn total(&self, width: Width) -> u64 {
        let workers = width.workers as u64 * (self.worker + WORKER_STATE);
        FIXED + self.resident + workers + width.permits as u64 * self.tile
    }

    /// The widest run of at most `threads` workers that stays within `max_memory`.
    ///
    /// # Errors
    /// `InvalidArgument` with the least that is needed.
    pub(crate) fn width(&self, max_memory: u64, threads: usize) -> Result<Width> {
        let mut width = Width { workers: threads.max(1), permits: 1 };
        while self.total(Width { permits: width.workers, ..width }) > max_memory
            && width.workers > 1
        {
            width.workers -= 1;
        }
        if self.total(width) > max_memory {
            let need = self.total(width).div_ceil(1 << 20);
            let given = match max_memory % (1 << 20) {
                0 => format!("{} MiB", max_memory >> 20),
                _ => format!("{max_memory} B"),
            };
            return Err(Error::invalid_argument(format!(
                "--max-memory {given} is too little for this checkpoint; it takes at least {need} MiB"
            )));
        }
        let wider = |w: Width| Width { permits: w.permits + 1, ..w };
        while width.permits < width.workers * PERMITS_PER_WORKER + 1
            && self.total(wider(width)) <= max_memory
        {
            width = wider(width);
        }
        Ok(width)
    }

    /// Bytes that a run of this width leaves of `max_memory`.
    pub(crate) fn spare(&self, max_memory: u64, width: Width) -> u64 {
        max_memory.saturating_sub(self.total(width))
    }

    /// Bytes a run of this width is expected to take at most.
    pub(crate) fn forecast(&self, width: Width) -> u64 {
        self.total(width)
    }
}

/// The most memory this process has had resident, mapped pages included; `None` where the system does
/// not say.
pub(crate) fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    bytes_of(&status, "VmHWM:")
}

/// Worker threads if the caller does not say: one a core.
pub(crate) fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs { resident: 1 << 20, tile: 16 << 20, worker: 8 << 20 };

    #[test]
    fn more_memory_never_means_fewer_tiles() {
        let mut before = 0;
        for mib in [64, 96, 128, 256, 512, 2048] {
            let width = NEEDS.width(mib << 20, 7).unwrap();
            assert!(NEEDS.forecast(width) <= mib << 20);
            assert!(width.permits >= before && width.workers <= 7);
            before = width.permits;
        }
        assert_eq!(before, 29);
    }

    #[test]
    fn too_little_memory_says_how_much_is_needed() {
        let text = NEEDS.width(32 << 20, 2).unwrap_err().to_string();
        assert!(text.contains("at least 53 MiB"), "{text}");
    }
}
