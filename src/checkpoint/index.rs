//! `model.safetensors.index.json`: which shard holds which tensor. As hostile as a header.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::checkpoint::header::json_fault;
use crate::checkpoint::names::{check_plain_name, shown};
use crate::error::{Error, Result};

/// How an index's name ends.
pub(super) const INDEX_SUFFIX: &str = ".safetensors.index.json";
/// Longest index read; the largest published ones have 10 MB.
const MAX_INDEX_BYTES: u64 = 100_000_000;

/// An index that names plain files and no tensor twice.
pub(super) struct Index {
    pub(super) path: PathBuf,
    /// Tensor and shard, sorted by tensor.
    pub(super) weight_map: Vec<(String, Arc<str>)>,
    /// The shards, sorted.
    pub(super) files: BTreeSet<Arc<str>>,
}

impl Index {
    /// Reads the index at `path`.
    pub(super) fn read(path: &Path) -> Result<Index> {
        let broken = |fault: String| {
            Error::invalid_checkpoint(format!("{}: {fault}; download it again", path.display()))
        };
        // A pipe would block the open for ever.
        let metadata = fs::metadata(path).map_err(|e| Error::io("open", path, e))?;
        if !metadata.is_file() {
            return Err(broken("this is not a regular file".to_owned()));
        }
        let mut json = Vec::new();
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let mut limited = file.take(MAX_INDEX_BYTES + 1);
        limited.read_to_end(&mut json).map_err(|e| Error::io("read", path, e))?;
        if json.len() as u64 > MAX_INDEX_BYTES {
            return Err(broken(format!("an index of more than {MAX_INDEX_BYTES} bytes")));
        }
        let Parsed { weight_map: WeightMap { mut pairs, files } } = serde_json::from_slice(&json)
            .map_err(|e| {
            broken(format!("this is not an index of safetensors ({})", json_fault(&e)))
        })?;
        if files.is_empty() {
            return Err(broken("its weight_map is empty".to_owned()));
        }
        for file in &files {
            check_plain_name(file)
                .and_then(|()| match file.ends_with(".safetensors") {
                    true => Ok(()),
                    false => Err("does not end in .safetensors"),
                })
                .map_err(|why| {
                    Error::invalid_checkpoint(format!(
                        "{}: shard path {} {why}; shards must lie beside their index under plain names",
                        path.display(),
                        shown(file)
                    ))
                })?;
        }
        pairs.sort_unstable();
        if let Some(two) = pairs.windows(2).find(|two| two[0].0 == two[1].0) {
            return Err(broken(format!("tensor {} is named twice", shown(&two[0].0))));
        }
        Ok(Index { path: path.to_owned(), weight_map: pairs, files })
    }
}

#[derive(serde::Deserialize)]
struct Parsed {
    weight_map: WeightMap,
}

struct WeightMap {
    pairs: Vec<(String, Arc<str>)>,
    files: BTreeSet<Arc<str>>,
}

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct MapVisitor;
        impl<'de> Visitor<'de> for MapVisitor {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of shard names by tensor")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<WeightMap, A::Error> {
                let mut out = WeightMap { pairs: Vec::new(), files: BTreeSet::new() };
                while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                    // Thousands of tensors name the same few shards: each name is kept once.
                    let file = match out.files.get(file.as_str()) {
                        Some(known) => Arc::clone(known),
                        None => {
                            let new: Arc<str> = Arc::from(file);
                            out.files.insert(Arc::clone(&new));
                            new
                        }
                    };
                    out.pairs.push((tensor, file));
                }
                Ok(out)
            }
        }
        from.deserialize_map(MapVisitor)
    }
}
