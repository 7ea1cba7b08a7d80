//! Whether an output would land on, in or around an input.

use std::fs;
use std::path::{Path, PathBuf};

use crate::checkpoint::Checkpoint;
use crate::checkpoint::sys::Stamp;

/// Whether both paths lead to one existing file or directory, through whatever links.
pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    match (fs::metadata(a), fs::metadata(b)) {
        (Ok(a), Ok(b)) => Stamp::of(&a).is_same_file(&Stamp::of(&b)),
        _ => false,
    }
}

/// Whether `output`, which need not exist, is an input of `checkpoint`, lies in its directory, or
/// contains it. A checkpoint of one named file owns that file, not the directory around it.
pub(crate) fn aliases(output: &Path, checkpoint: &Checkpoint) -> bool {
    let Some(output_at) = resolve(output) else {
        return false;
    };
    let stamp = fs::metadata(output).ok().map(|metadata| Stamp::of(&metadata));
    let is_around = |input: &Path| input.canonicalize().is_ok_and(|at| at.starts_with(&output_at));
    if checkpoint.adapter().is_some_and(|adapter| aliases(output, adapter.checkpoint())) {
        return true;
    }
    let root = checkpoint.root();
    if checkpoint.owns_root() {
        let in_root = root.canonicalize().is_ok_and(|root| output_at.starts_with(root));
        if in_root || same_file(root, output) || is_around(root) {
            return true;
        }
    }
    checkpoint.shards().iter().any(|shard| {
        // A hard link has another path and the same identity.
        stamp.is_some_and(|stamp| stamp.is_same_file(shard.stamp())) || is_around(&shard.path)
    })
}

/// The canonical form of a path whose last parts may not exist yet.
fn resolve(path: &Path) -> Option<PathBuf> {
    if let Ok(found) = path.canonicalize() {
        return Some(found);
    }
    let name = path.file_name()?;
    let parent = path.parent()?;
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Some(resolve(parent)?.join(name))
}
