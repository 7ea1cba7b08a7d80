//! Tiles use the buffers of the tiles before them: how many large blocks a run allocates does not grow with
//! the model. In a binary of its own, since it counts what the whole process allocates. `auto` is not among the
//! methods: its search for directions allocates some blocks a tile when it compresses.

#![expect(unsafe_code, reason = "an allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use delta_stream::{
    BitDelta, CompressOptions, Dare, DeltaDct, DeltaDq, Method, PairShape, Resources,
    RestoreOptions, Result, Silent, UltraDelta,
};

/// A sixteenth of what a tile of these models has in one checkpoint.
const LARGE: usize = 128 << 10;

static N_LARGE: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, with a count of the large blocks it gave.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of this same function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

fn count(size: usize) {
    if size >= LARGE {
        N_LARGE.fetch_add(1, Ordering::Relaxed);
    }
}

/// Large blocks that a compress and a restore of a model of so many layers allocate.
fn large_blocks(dir: &Path, layers: u64, method: &Method) -> Result<(usize, usize)> {
    let dir = dir.join(layers.to_string());
    if !dir.exists() {
        let shape = PairShape::small().with_sizes(1024, 1024, 2048, layers).with_shards(1, 1);
        delta_stream::make_pair(&dir, &shape, 2)?;
    }
    let (base, ft) = (dir.join("base"), dir.join("fine-tune"));
    let (archive, out) = (dir.join("a.delta.zst"), dir.join("out"));
    let resources = Resources::default().with_threads(1);
    let options =
        CompressOptions::new(method.clone()).with_resources(resources.clone()).with_force(true);
    let start = N_LARGE.load(Ordering::Relaxed);
    delta_stream::compress(&ft, &base, &archive, &options, &Silent)?;
    let middle = N_LARGE.load(Ordering::Relaxed);
    let options = RestoreOptions::default().with_resources(resources).with_force(true);
    delta_stream::restore(&archive, &base, &out, &options, &Silent)?;
    Ok((middle - start, N_LARGE.load(Ordering::Relaxed) - middle))
}

#[test]
fn large_blocks_do_not_grow_with_the_model() {
    let dir = tempfile::tempdir().unwrap();
    for method in [
        Method::Lossless,
        Method::DeltaDct(DeltaDct::default()),
        Method::BitDelta(BitDelta::default()),
        Method::Dare(Dare::default()),
        Method::DeltaDq(DeltaDq::default()),
        Method::UltraDelta(UltraDelta::default()),
    ] {
        let few = large_blocks(dir.path(), 2, &method).unwrap();
        let many = large_blocks(dir.path(), 8, &method).unwrap();
        // Six layers more are 42 tiles of a million elements more. How many tiles are alive at once, and
        // with them the first few allocations, depends a little on how threads happen to run.
        println!("{}: {few:?} and {many:?}", method.name());
        assert!(many.0 <= few.0 + 16, "compress by {}: {} and {}", method.name(), few.0, many.0);
        assert!(many.1 <= few.1 + 16, "restore of {}: {} and {}", method.name(), few.1, many.1);
    }
}
