//! Output directories: all or nothing, and never over something else.

use std::fs;
use std::path::Path;

use super::{names_in, put};
use crate::checkpoint::{Checkpoint, CheckpointWriter, ShardLayout, plan_shards};
use crate::error::{Error, ErrorKind, Result};
use crate::tensor::DType;

fn layouts(max: u64) -> Vec<ShardLayout> {
    let tensor = |name: &str| (name.to_owned(), DType::U8, vec![3], 3);
    plan_shards(&[tensor("b"), tensor("a")], None, max).unwrap()
}

fn fill(writer: &mut CheckpointWriter, max: u64) {
    for layout in layouts(max) {
        let shard = writer.start_shard(&layout).unwrap();
        for (_, offset, _) in &layout.tensors {
            writer.write_at(shard, *offset, b"xyz").unwrap();
        }
    }
}

fn refused(dir: &Path, force: bool, words: &str) {
    let error = CheckpointWriter::create(dir, force).unwrap_err();
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn several_shards_get_the_index_that_transformers_writes() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new/out");
    let mut writer = CheckpointWriter::create(&dir, false).unwrap();
    fill(&mut writer, 3);
    writer.write_side_file("config.json", [Ok("{"), Ok("}")]).unwrap();
    writer.write_index(false).unwrap();
    assert!(!dir.exists());
    writer.commit().unwrap();
    assert_eq!(names_in(dir.parent().unwrap()), ["out"]);
    let index = fs::read_to_string(dir.join("model.safetensors.index.json")).unwrap();
    let expected = "{\n  \"metadata\": {\n    \"total_size\": 6\n  },\n  \"weight_map\": {\n    \
        \"a\": \"model-00002-of-00002.safetensors\",\n    \"b\": \"model-00001-of-00002.safetensors\"\n  }\n}\n";
    assert_eq!(index, expected);
    assert_eq!(fs::read(dir.join("config.json")).unwrap(), b"{}");
    assert_eq!(Checkpoint::open(&dir).unwrap().tensors().len(), 2);
}

#[test]
fn one_shard_has_no_index_unless_asked() {
    let parent = tempfile::tempdir().unwrap();
    for always in [false, true] {
        let dir = parent.path().join(always.to_string());
        let mut writer = CheckpointWriter::create(&dir, false).unwrap();
        fill(&mut writer, 100);
        writer.write_index(always).unwrap();
        writer.commit().unwrap();
        assert_eq!(dir.join("model.safetensors.index.json").exists(), always);
        Checkpoint::open(&dir).unwrap();
    }
}

#[test]
fn what_is_not_complete_leaves_nothing() -> Result<()> {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("out");
    let layout = &layouts(100)[0];
    let start = layout.tensors[0].1;
    let mut writer = CheckpointWriter::create(&dir, false)?;
    let shard = writer.start_shard(layout)?;
    writer.write_at(shard, start, b"xyz")?;
    for (shard, offset) in [(shard, start + 4), (shard, start - 1), (shard, u64::MAX), (9, start)] {
        assert!(writer.write_at(shard, offset, b"xyz").is_err(), "{shard} {offset}");
    }
    let chunks = [Ok(&b"half"[..]), Err(Error::corrupt("no more"))];
    assert_eq!(writer.write_side_file("a.txt", chunks).unwrap_err().kind(), ErrorKind::Corrupt);
    let error = writer.commit().unwrap_err();
    assert!(error.to_string().contains("3 of 6 bytes were never written"), "{error}");
    assert!(names_in(parent.path()).is_empty());
    // Too much is refused as well as too little, and a finished shard takes nothing.
    let mut writer = CheckpointWriter::create(&dir, false)?;
    fill(&mut writer, 100);
    assert!(writer.write_at(0, start, b"x").is_err());
    writer.finish_shard(0)?;
    writer.finish_shard(0)?;
    assert!(writer.finish_shard(1).is_err());
    drop(writer);
    assert!(names_in(parent.path()).is_empty());
    Ok(())
}

#[test]
fn names_from_an_archive_stay_inside() {
    let parent = tempfile::tempdir().unwrap();
    let mut writer = CheckpointWriter::create(&parent.path().join("out"), false).unwrap();
    fill(&mut writer, 100);
    for name in ["../x", "/x", "a/b", "..", "", "NUL", "a\0", "MODEL.safetensors"] {
        let error = writer.write_side_file(name, [Ok("x")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidCheckpoint, "{name}");
    }
    assert!(writer.start_shard(&layouts(100)[0]).is_err());
}

#[test]
fn what_is_there_is_kept_unless_forced() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("out");
    fs::create_dir(&dir).unwrap();
    CheckpointWriter::create(&dir, false).unwrap().commit().unwrap();
    let old = put(&dir, "old.txt", "old");
    refused(&dir, false, "is not empty");
    refused(&dir, true, "holds no checkpoint");
    put(&dir, "old.safetensors", "old");
    refused(&old, true, "is a file");
    refused(&dir.join("old.txt/below"), false, "old.txt");
    refused(Path::new("/"), true, "cannot be replaced");
    fs::create_dir(dir.join("checkpoint-500")).unwrap();
    refused(&dir, true, "sub-directory \"checkpoint-500\"");
    fs::remove_dir(dir.join("checkpoint-500")).unwrap();

    let mut writer = CheckpointWriter::create(&dir, true).unwrap();
    fill(&mut writer, 100);
    assert_eq!(fs::read(&old).unwrap(), b"old");
    writer.commit().unwrap();
    assert_eq!(names_in(&dir), ["model.safetensors"]);
    assert_eq!(names_in(parent.path()), ["out"]);
}

#[test]
fn what_appears_meanwhile_is_not_overwritten() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("out");
    for force in [false, true] {
        let mut writer = CheckpointWriter::create(&dir, force).unwrap();
        fill(&mut writer, 100);
        fs::create_dir_all(dir.join("sub")).unwrap();
        assert!(writer.commit().is_err());
        assert_eq!(names_in(&dir), ["sub"]);
        assert_eq!(names_in(parent.path()), ["out"]);
        fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn a_link_to_the_output_stays_a_link() {
    let parent = tempfile::tempdir().unwrap();
    let (dir, link) = (parent.path().join("out"), parent.path().join("link"));
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    let mut writer = CheckpointWriter::create(&link, false).unwrap();
    fill(&mut writer, 100);
    writer.commit().unwrap();
    assert!(link.is_symlink() && dir.join("model.safetensors").exists());
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(CheckpointWriter::create(&link, false).unwrap_err().kind(), ErrorKind::Io);
}
