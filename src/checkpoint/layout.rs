//! Where each tensor of a shard to be written lies: from a verbatim header, or planned anew.

use std::collections::HashSet;

use safetensors::tensor::TensorInfo;

use crate::checkpoint::discover::SINGLE_NAME;
use crate::checkpoint::header::{self, MAX_HEADER_BYTES, METADATA_KEY, Metadata, PREFIX_BYTES};
use crate::checkpoint::names::{check_plain_name, shown};
use crate::error::{Error, Result};
use crate::tensor::{DType, Shape};

/// One file to write: header, and the place of every tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShardLayout {
    /// A plain file name.
    pub(crate) file_name: String,
    /// 8 bytes of length, then the JSON.
    pub(crate) header: Vec<u8>,
    /// Name, offset from the start of the file, and bytes; sorted by offset, then name.
    pub(crate) tensors: Vec<(String, u64, u64)>,
    /// Length of the whole file.
    pub(crate) file_len: u64,
}

/// A tensor to place: name, dtype, shape, bytes.
pub(crate) type PlannedTensor = (String, DType, Shape, u64);

/// The layout that `header` (8 + N bytes, verbatim) prescribes. `context` names its origin in errors.
///
/// # Errors
/// `InvalidCheckpoint`: the header comes from an archive and is held to the rules of a file's.
pub(crate) fn parse_layout(file_name: &str, header: &[u8], context: &str) -> Result<ShardLayout> {
    let what = format!("{context}: header of {}", shown(file_name));
    check_plain_name(file_name)
        .map_err(|why| Error::invalid_checkpoint(format!("{what}: this file name {why}")))?;
    let parsed = header::parse(header, &what)?;
    let start = parsed.data_start;
    let place = |e: header::Entry| (e.name, start + e.begin, e.end - e.begin);
    Ok(ShardLayout {
        file_name: file_name.to_owned(),
        header: header.to_vec(),
        tensors: parsed.entries.into_iter().map(place).collect(),
        file_len: parsed.file_len,
    })
}

/// Distributes tensors over shards in the order given, each shard with at most `max_shard_bytes`
/// of tensors unless one alone is larger, and each with `metadata`.
///
/// # Errors
/// `InvalidArgument` if the maximum is 0, a name is used twice or a size is not that of its shape.
pub(crate) fn plan_shards(
    tensors: &[PlannedTensor],
    metadata: Option<&Metadata>,
    max_shard_bytes: u64,
) -> Result<Vec<ShardLayout>> {
    if max_shard_bytes == 0 {
        return Err(Error::invalid_argument("the largest shard size must be at least 1 byte"));
    }
    check_planned(tensors)?;
    let mut groups = Vec::new();
    let (mut first, mut bytes) = (0, 0u64);
    for (i, (.., n_bytes)) in tensors.iter().enumerate() {
        if i > first && bytes.saturating_add(*n_bytes) > max_shard_bytes {
            groups.push(&tensors[first..i]);
            (first, bytes) = (i, 0);
        }
        bytes = bytes.saturating_add(*n_bytes);
    }
    // Without tensors there is one shard still: no shard is no checkpoint.
    groups.push(&tensors[first..]);
    let n_shards = groups.len();
    let name = |i: usize| match n_shards {
        1 => SINGLE_NAME.to_owned(),
        n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
    };
    groups.iter().enumerate().map(|(i, group)| lay_out(name(i), group, metadata)).collect()
}

/// One file with all of these tensors.
///
/// # Errors
/// As [`plan_shards`].
pub(crate) fn plan_file(
    file_name: &str,
    tensors: &[PlannedTensor],
    metadata: Option<&Metadata>,
) -> Result<ShardLayout> {
    check_planned(tensors)?;
    lay_out(file_name.to_owned(), tensors, metadata)
}

fn check_planned(tensors: &[PlannedTensor]) -> Result<()> {
    let mut names = HashSet::with_capacity(tensors.len());
    for (name, dtype, shape, n_bytes) in tensors {
        let wrong = |fault: &str| {
            Error::invalid_argument(format!("tensor {} cannot be written: {fault}", shown(name)))
        };
        if name == METADATA_KEY {
            return Err(wrong("the format reserves this name; rename it"));
        }
        if !names.insert(name.as_str()) {
            return Err(wrong("the name is used twice; rename one"));
        }
        if header::n_bytes(*dtype, shape).map_err(wrong)? != *n_bytes {
            return Err(wrong("its size is not that of its shape"));
        }
    }
    Ok(())
}

fn lay_out(
    file_name: String,
    tensors: &[PlannedTensor],
    metadata: Option<&Metadata>,
) -> Result<ShardLayout> {
    let too_large = || {
        Error::invalid_argument(format!(
            "{file_name}: the tensors overflow the format; choose a smaller shard size"
        ))
    };
    let mut json = String::from("{");
    if let Some(pairs) = metadata {
        let pairs: Vec<String> =
            pairs.iter().map(|(k, v)| format!("{}:{}", quoted(k), quoted(v))).collect();
        json += &format!("{}:{{{}}}", quoted(METADATA_KEY), pairs.join(","));
    }
    let mut places = Vec::with_capacity(tensors.len());
    let mut next = 0u64;
    for (name, dtype, shape, n_bytes) in tensors {
        let end = next.checked_add(*n_bytes).ok_or_else(too_large)?;
        let to_usize = |n: u64| usize::try_from(n).map_err(|_| too_large());
        let info = TensorInfo {
            dtype: dtype.to_format(),
            shape: shape.iter().map(|n| to_usize(*n)).collect::<Result<_>>()?,
            data_offsets: (to_usize(next)?, to_usize(end)?),
        };
        let info = serde_json::to_string(&info)
            .map_err(|e| Error::invalid_argument(format!("tensor {name}")).with_source(e))?;
        let comma = if json.len() > 1 { "," } else { "" };
        json += &format!("{comma}{}:{info}", quoted(name));
        places.push((name.clone(), next, *n_bytes));
        next = end;
    }
    json.push('}');
    // Padded, so that tensor bytes start at a multiple of 8 and can be viewed as numbers in place.
    json += &" ".repeat(json.len().next_multiple_of(8) - json.len());
    let json_bytes = json.len() as u64;
    if json_bytes > MAX_HEADER_BYTES {
        return Err(too_large());
    }
    let start = PREFIX_BYTES + json_bytes;
    let file_len = start.checked_add(next).ok_or_else(too_large)?;
    places.iter_mut().for_each(|place| place.1 += start);
    places.sort_unstable_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    let mut header = json_bytes.to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    Ok(ShardLayout { file_name, header, tensors: places, file_len })
}

/// `text` as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
