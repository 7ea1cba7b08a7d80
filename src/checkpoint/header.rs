//! Safetensors headers, from files and from archives: both are hostile until every rule held.
//!
//! The format's own crate is not used for this: it keeps the last of two equal keys, names neither
//! tensor nor byte when it refuses, and collects JSON into a tree up to 19 times the header's size
//! (measured on 34 MB of `[1,1,...]`). Here memory stays within about 5 times the header, itself no
//! longer than the file.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::checkpoint::names::shown;
use crate::error::{Error, Result, ResultExt};
use crate::tensor::{DType, Shape};

/// Longest JSON header the format allows.
pub(crate) const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Bytes of the little-endian header length in front of the JSON.
pub(crate) const PREFIX_BYTES: u64 = 8;
/// The key that holds text, not a tensor.
pub(crate) const METADATA_KEY: &str = "__metadata__";
/// As many dimensions as NumPy knows; no tensor in use has more than a handful.
const MAX_DIMENSIONS: usize = 64;
/// Entries of `__metadata__`; a bound on memory that no writer comes near.
const MAX_METADATA_ENTRIES: usize = 1 << 20;

/// Most characters of a parser's message shown.
const MAX_FAULT_CHARS: usize = 300;

/// The `__metadata__` of a header in its own order.
pub(crate) type Metadata = Vec<(String, String)>;

/// One tensor of a header; its bytes are `begin..end` counted from the end of the header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
    pub(crate) begin: u64,
    pub(crate) end: u64,
}

/// A header that keeps every rule of the format.
#[derive(Debug)]
pub(crate) struct Header {
    /// Sorted by begin, then name.
    pub(crate) entries: Vec<Entry>,
    /// Where tensor bytes start in the file: 8 + N.
    pub(crate) data_start: u64,
    /// Length of a file with this header.
    pub(crate) file_len: u64,
}

/// Bytes of a tensor, which must be whole.
///
/// # Errors
/// The reason why there is no such size, for a sentence of the caller.
pub(crate) fn n_bytes(dtype: DType, shape: &[u64]) -> std::result::Result<u64, &'static str> {
    let bits = shape
        .iter()
        .try_fold(1u64, |n, &dim| n.checked_mul(dim))
        .and_then(|n| n.checked_mul(dtype.bits() as u64))
        .ok_or("the shape overflows 64 bits")?;
    if bits.is_multiple_of(8) { Ok(bits / 8) } else { Err("its elements do not fill whole bytes") }
}

/// Length of the JSON, from the 8 bytes before it. `what` opens the message.
pub(crate) fn json_bytes(prefix: [u8; 8], what: &str) -> Result<u64> {
    let n = u64::from_le_bytes(prefix);
    if n > MAX_HEADER_BYTES {
        return Err(Error::invalid_checkpoint(format!(
            "{what}: the header would be {n} bytes long, more than the format's {MAX_HEADER_BYTES}; \
             this is no safetensors file, or a damaged one: download or save it again"
        )));
    }
    Ok(n)
}

/// Reads and validates `header`, the length and the JSON verbatim. `what` names the file it is of.
///
/// # Errors
/// `InvalidCheckpoint` with `what`, the tensor and the rule it breaks.
pub(crate) fn parse(header: &[u8], what: &str) -> Result<Header> {
    let mut entries = read_json(header, what)?.entries;
    let data_bytes = check_cover(&mut entries).context(|| what.to_owned())?;
    let data_start = header.len() as u64;
    let file_len = data_start.checked_add(data_bytes).ok_or_else(|| {
        Error::invalid_checkpoint(format!(
            "{what}: offsets overflow 64 bits; the header is damaged"
        ))
    })?;
    Ok(Header { entries, data_start, file_len })
}

/// The `__metadata__` of a header, if it has one.
///
/// # Errors
/// As [`parse`], for the JSON alone.
pub(crate) fn metadata(header: &[u8], what: &str) -> Result<Option<Metadata>> {
    Ok(read_json(header, what)?.metadata)
}

fn read_json(header: &[u8], what: &str) -> Result<Json> {
    let Some((prefix, json)) = header.split_first_chunk::<8>() else {
        return Err(Error::invalid_checkpoint(format!(
            "{what}: the header ends after {} bytes, before its own length does; download or save it again",
            header.len()
        )));
    };
    let n = json_bytes(*prefix, what)?;
    if n != json.len() as u64 {
        return Err(Error::invalid_checkpoint(format!(
            "{what}: the header says it has {n} bytes, but {} are there",
            json.len()
        )));
    }
    serde_json::from_slice(json).map_err(|e| {
        Error::invalid_checkpoint(format!(
            "{what}: the header is not what the format asks for ({}); download or save it again",
            json_fault(&e)
        ))
    })
}

/// What a JSON parser found wrong, cut: it may quote a string as long as the file.
pub(crate) fn json_fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.char_indices().nth(MAX_FAULT_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Checks that tensors have the size of their shape and lie end to end, and gives that end.
fn check_cover(entries: &mut [Entry]) -> Result<u64> {
    let broken = |name: &str, fault: String| {
        let name = shown(name);
        Error::invalid_checkpoint(format!(
            "tensor {name}: {fault}; the file is damaged: download or save it again"
        ))
    };
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(two) = entries.windows(2).find(|two| two[0].name == two[1].name) {
        return Err(broken(&two[0].name, "the header has it twice (duplicate key)".to_owned()));
    }
    // Tensors without elements share their offset with the next: they come first.
    entries.sort_unstable_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
    let mut next = 0;
    for Entry { name, dtype, shape, begin, end } in entries.iter() {
        let (begin, end) = (*begin, *end);
        if end < begin {
            return Err(broken(name, format!("it ends at {end}, before it begins at {begin}")));
        }
        if begin < next {
            return Err(broken(name, format!("it overlaps another, at offset {begin}")));
        }
        if begin > next {
            return Err(broken(name, format!("there is a hole before it, {next}..{begin}")));
        }
        let size = n_bytes(*dtype, shape).map_err(|fault| broken(name, fault.to_owned()))?;
        if size != end - begin {
            let fault = format!(
                "{} {shape:?} needs {size} bytes, but its offsets hold {}",
                dtype.name(),
                end - begin
            );
            return Err(broken(name, fault));
        }
        next = end;
    }
    entries.sort_unstable_by(|a, b| (a.begin, &a.name).cmp(&(b.begin, &b.name)));
    Ok(next)
}

struct Json {
    entries: Vec<Entry>,
    metadata: Option<Metadata>,
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_map(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Json, A::Error> {
        let mut json = Json { entries: Vec::new(), metadata: None };
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            let named = |e: A::Error| de::Error::custom(format!("{}: {e}", shown(&name)));
            if name == METADATA_KEY {
                if has_metadata {
                    return Err(de::Error::custom("duplicate key __metadata__"));
                }
                has_metadata = true;
                json.metadata = map.next_value::<Option<Pairs>>().map_err(named)?.map(|p| p.0);
            } else {
                let raw = map.next_value::<RawEntry<'de>>().map_err(named)?;
                let dtype = DType::from_name(&raw.dtype).ok_or_else(|| {
                    let (tensor, dtype) = (shown(&name), shown(&raw.dtype));
                    de::Error::custom(format!("tensor {tensor}: unknown dtype {dtype}"))
                })?;
                let (begin, end) = raw.data_offsets;
                json.entries.push(Entry { name, dtype, shape: raw.shape.0, begin, end });
            }
        }
        Ok(json)
    }
}

#[derive(serde::Deserialize)]
struct RawEntry<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Dimensions,
    data_offsets: (u64, u64),
}

/// A shape of bounded length: `[1,1,1,...]` would grow fourfold in memory.
struct Dimensions(Shape);

impl<'de> Deserialize<'de> for Dimensions {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Dims;
        impl<'de> Visitor<'de> for Dims {
            type Value = Dimensions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a shape of at most {MAX_DIMENSIONS} dimensions")
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> std::result::Result<Dimensions, A::Error> {
                let mut dims = [0; MAX_DIMENSIONS];
                let mut n = 0;
                while n < MAX_DIMENSIONS {
                    let Some(dim) = seq.next_element()? else {
                        break;
                    };
                    dims[n] = dim;
                    n += 1;
                }
                if n == MAX_DIMENSIONS && seq.next_element::<IgnoredAny>()?.is_some() {
                    return Err(de::Error::custom(format!(
                        "more than {MAX_DIMENSIONS} dimensions"
                    )));
                }
                Ok(Dimensions(dims[..n].to_vec()))
            }
        }
        from.deserialize_seq(Dims)
    }
}

/// Text by text, in order and without duplicates.
struct Pairs(Metadata);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry::<String, String>()? {
                    if pairs.len() == MAX_METADATA_ENTRIES {
                        return Err(de::Error::custom("too many entries"));
                    }
                    pairs.push(pair);
                }
                let mut keys: Vec<&str> = pairs.iter().map(|p| p.0.as_str()).collect();
                keys.sort_unstable();
                match keys.windows(2).find(|two| two[0] == two[1]) {
                    Some(two) => Err(de::Error::custom(format!("duplicate key {}", shown(two[0])))),
                    None => Ok(Pairs(pairs)),
                }
            }
        }
        from.deserialize_map(PairsVisitor)
    }
}
