//! Safetensors files of bytes whose lengths are known only once they are written, as those of compressed
//! tensors are. The header stands in front of them, so room for the longest it can be is left, and blanks
//! fill what it does not take; the format allows them.

use crate::checkpoint::header::{METADATA_KEY, Metadata};
use crate::checkpoint::layout::quoted;
use crate::checkpoint::writer::{CheckpointWriter, SyncedFile};
use crate::error::{Error, Result};

/// A file that grows tensor by tensor, all of them runs of U8.
#[derive(Debug)]
pub(crate) struct GrownShard {
    out: SyncedFile,
    /// Bytes of the header's JSON with its blanks.
    room: u64,
    /// Name, begin and end counted from the end of the header.
    tensors: Vec<(String, u64, u64)>,
}

impl CheckpointWriter {
    /// Creates a file that will hold tensors of these names, and text for each of at most so many bytes.
    pub(crate) fn start_grown<'n>(
        &mut self,
        file_name: &str,
        names: impl Iterator<Item = &'n str>,
        text_len: usize,
    ) -> Result<GrownShard> {
        self.claim_name(file_name)?;
        let out = self.create_file(file_name)?;
        let longest: Vec<_> = names.map(|name| (name.to_owned(), u64::MAX, u64::MAX)).collect();
        let text = |(name, ..): &(String, u64, u64)| (name.clone(), "x".repeat(text_len));
        let room = json(&longest, &longest.iter().map(text).collect());
        Ok(GrownShard { out, room: room.len().next_multiple_of(8) as u64, tensors: Vec::new() })
    }
}

impl GrownShard {
    /// Begins the next tensor.
    pub(crate) fn begin(&mut self, name: &str) {
        let at = self.end();
        self.tensors.push((name.to_owned(), at, at));
    }

    /// Adds bytes to the tensor that was begun last.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let at = 8 + self.room + self.end();
        self.out.write_at(at, bytes)?;
        let open = self.tensors.last_mut();
        let (.., end) = open.ok_or_else(|| Error::invalid_argument("no tensor was begun"))?;
        *end += bytes.len() as u64;
        Ok(())
    }

    /// Writes the header with this text and brings the file to disk; gives its length.
    ///
    /// # Errors
    /// `InvalidArgument` if there are other tensors or longer text than there is room for; `Io`.
    pub(crate) fn finish(self, metadata: &Metadata) -> Result<u64> {
        let mut json = json(&self.tensors, metadata);
        let blanks = self.room.checked_sub(json.len() as u64);
        let blanks = blanks.ok_or_else(|| {
            Error::invalid_argument("the header has no room for tensors that were not announced")
        })?;
        json.push_str(&" ".repeat(blanks as usize));
        let mut header = self.room.to_le_bytes().to_vec();
        header.extend_from_slice(json.as_bytes());
        self.out.write_at(0, &header)?;
        self.out.finish()?;
        Ok(header.len() as u64 + self.end())
    }

    /// Where the tensor bytes so far end.
    fn end(&self) -> u64 {
        self.tensors.last().map_or(0, |(.., end)| *end)
    }
}

/// The header's JSON.
fn json(tensors: &[(String, u64, u64)], metadata: &Metadata) -> String {
    let pairs: Vec<_> =
        metadata.iter().map(|(k, v)| format!("{}:{}", quoted(k), quoted(v))).collect();
    let mut out = format!("{{{}:{{{}}}", quoted(METADATA_KEY), pairs.join(","));
    for (name, begin, end) in tensors {
        let (name, n) = (quoted(name), end - begin.min(end));
        // As wide as it can be where the length is not known yet.
        let n = if *end == u64::MAX { u64::MAX } else { n };
        out += &format!(
            ",{name}:{{\"dtype\":\"U8\",\"shape\":[{n}],\"data_offsets\":[{begin},{end}]}}"
        );
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;

    #[test]
    fn what_grew_is_a_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("made");
        let mut writer = CheckpointWriter::create(&out, false).unwrap();
        let names = ["a \"b\"", "c", "never"];
        let mut shard = writer.start_grown("x.safetensors", names.into_iter(), 4).unwrap();
        for (name, pieces) in [(names[0], vec![&b"hello "[..], b"you"]), (names[1], vec![&b""[..]])]
        {
            shard.begin(name);
            pieces.into_iter().for_each(|piece| shard.add(piece).unwrap());
        }
        let text = vec![(names[0].to_owned(), "1234".to_owned())];
        let len = shard.finish(&text).unwrap();
        writer.commit().unwrap();
        let made = Checkpoint::open(&out).unwrap();
        assert_eq!(made.total_bytes(), len);
        let found: Vec<_> =
            made.tensors().iter().map(|t| (t.name.as_str(), t.n_bytes, t.shape.clone())).collect();
        assert_eq!(found, [(names[0], 9, vec![9]), ("c", 0, vec![0])]);
        let bytes = std::fs::read(out.join("x.safetensors")).unwrap();
        assert!(bytes.ends_with(b"hello you") && len.is_multiple_of(8) == (9 % 8 == 0));
    }

    #[test]
    fn more_than_there_is_room_for_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = CheckpointWriter::create(&dir.path().join("made"), false).unwrap();
        let mut shard = writer.start_grown("x.safetensors", ["a"].into_iter(), 0).unwrap();
        assert!(shard.add(b"1").is_err());
        shard.begin("a");
        shard.begin(&"b".repeat(100));
        assert!(shard.finish(&Vec::new()).is_err());
    }
}
