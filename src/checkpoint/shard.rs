//! One open safetensors file: its header verbatim and what it says, no tensor bytes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::foreign::Foreign;
use crate::checkpoint::header::{self, MAX_HEADER_BYTES, PREFIX_BYTES};
use crate::checkpoint::sys::{self, Stamp};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::{DType, Shape};

/// One safetensors file of a checkpoint. It stays open, so a rename does not swap it for another.
#[derive(Debug)]
#[non_exhaustive]
pub struct Shard {
    /// Its name inside the checkpoint's directory.
    pub file_name: String,
    /// The path it was opened at.
    pub path: PathBuf,
    /// The header verbatim: 8 bytes of length, then the JSON.
    pub header: Vec<u8>,
    /// Length of the file in bytes.
    pub file_len: u64,
    file: Arc<File>,
    stamp: Stamp,
}

/// One tensor: what it is and where its bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TensorInfo {
    /// Its name, unique in the checkpoint.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its shape, outermost dimension first; a scalar has none.
    pub shape: Shape,
    /// Index of the shard that holds it.
    pub shard: usize,
    /// First byte, counted from the start of the shard's file. Any alignment occurs.
    pub offset: u64,
    /// Number of bytes.
    pub n_bytes: u64,
}

impl TensorInfo {
    /// Number of elements; opening has checked that it does not overflow.
    pub fn n_elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

impl Shard {
    /// Opens the file at `path`, the `shard_idx`-th of its checkpoint, and reads its header.
    pub(super) fn open(
        path: PathBuf,
        file_name: String,
        shard_idx: usize,
    ) -> Result<(Shard, Vec<TensorInfo>)> {
        // A pipe would block the open for ever.
        let metadata = fs::metadata(&path).map_err(|e| Error::io("open", &path, e))?;
        if !metadata.is_file() {
            return Err(Error::invalid_checkpoint(format!(
                "{} is not a regular file; give a safetensors file",
                path.display()
            )));
        }
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let metadata = file.metadata().map_err(|e| Error::io("read", &path, e))?;
        let file_len = metadata.len();
        let header = read_header(&file, &path, file_len)?;
        let what = path.display().to_string();
        let parsed = header::parse(&header, &what)?;
        if file_len < parsed.file_len {
            return Err(Error::invalid_checkpoint(format!(
                "{what}: truncated: the file ends at {file_len}, its header promises {}; download it again",
                parsed.file_len
            )));
        }
        if file_len > parsed.file_len {
            return Err(Error::invalid_checkpoint(format!(
                "{what}: {} trailing bytes that belong to no tensor; download or save it again",
                file_len - parsed.file_len
            )));
        }
        let tensors = tensors_of(parsed, shard_idx);
        let stamp = Stamp::of(&metadata);
        Ok((Shard { file_name, path, header, file_len, file: Arc::new(file), stamp }, tensors))
    }

    /// Fails if the file was written to since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let now = self.file.metadata().map_err(|e| Error::io("read", &self.path, e))?;
        if Stamp::of(&now) == self.stamp {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Io,
            format!(
                "{} was changed while it was being read; wait until nothing writes to it and run again",
                self.path.display()
            ),
        ))
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub(super) fn stamp(&self) -> &Stamp {
        &self.stamp
    }
}

/// The tensors that `header` (8 + N bytes, verbatim) of a file of `file_len` bytes describes, in file
/// order.
///
/// # Errors
/// `InvalidCheckpoint`: a stored header is held to the rules of a file's.
pub(crate) fn parse_header(
    header: &[u8],
    file_len: u64,
    shard_idx: usize,
    what: &str,
) -> Result<Vec<TensorInfo>> {
    let parsed = header::parse(header, what)?;
    if parsed.file_len != file_len {
        return Err(Error::invalid_checkpoint(format!(
            "{what}: a file of {file_len} bytes where its header makes {}",
            parsed.file_len
        )));
    }
    Ok(tensors_of(parsed, shard_idx))
}

fn tensors_of(parsed: header::Header, shard_idx: usize) -> Vec<TensorInfo> {
    let to_info = |e: header::Entry| TensorInfo {
        offset: parsed.data_start + e.begin,
        n_bytes: e.end - e.begin,
        name: e.name,
        dtype: e.dtype,
        shape: e.shape,
        shard: shard_idx,
    };
    parsed.entries.into_iter().map(to_info).collect()
}

fn read_header(file: &File, path: &Path, file_len: u64) -> Result<Vec<u8>> {
    let what = path.display();
    let read = |buf: &mut [u8], at| {
        sys::read_exact_at(file, buf, at).map_err(|e| Error::io("read", path, e))
    };
    if file_len < PREFIX_BYTES {
        return Err(Error::invalid_checkpoint(format!(
            "{what}: the file has {file_len} bytes, too few for a safetensors header; download it again"
        )));
    }
    let mut prefix = [0; PREFIX_BYTES as usize];
    read(&mut prefix, 0)?;
    // Only a length that cannot be one is looked at as a signature: 640 is how a pickle begins.
    let fits = u64::from_le_bytes(prefix) <= MAX_HEADER_BYTES.min(file_len - PREFIX_BYTES);
    if let Some(foreign) = Foreign::by_start(&prefix).filter(|_| !fits) {
        return Err(foreign.refusal(path));
    }
    let n = header::json_bytes(prefix, &what.to_string())?;
    // Before the allocation: the file itself vouches for the length.
    if n > file_len - PREFIX_BYTES {
        return Err(Error::invalid_checkpoint(format!(
            "{what}: truncated: the file ends at {file_len}, its header promises {}; download it again",
            n + PREFIX_BYTES
        )));
    }
    let mut header = vec![0; (PREFIX_BYTES + n) as usize];
    read(&mut header, 0)?;
    Ok(header)
}
