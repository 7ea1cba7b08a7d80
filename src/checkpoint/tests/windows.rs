//! Windows give the same bytes however they are brought in.

use std::fs;

use super::{put, vectors};
use crate::checkpoint::{Checkpoint, MapChoice, Source};
use crate::error::ErrorKind;

#[expect(unsafe_code, reason = "the tests promise what the constructor asks for")]
fn mapping() -> MapChoice {
    // SAFETY: each test writes its own files before it opens them, and truncates none under a window.
    unsafe { MapChoice::trusting_files_stay_unchanged() }
}

#[test]
fn mapped_read_and_direct_windows_agree_at_every_alignment() {
    let dir = tempfile::tempdir().unwrap();
    let path = put(dir.path(), "x.safetensors", vectors(&[("a", 3), ("b", 20_001), ("c", 0)]));
    let whole = fs::read(&path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let mapped = Source::new(&checkpoint, &mapping()).unwrap();
    let read = Source::new(&checkpoint, &MapChoice::never()).unwrap();
    let direct = Source::new(&checkpoint, &MapChoice::direct()).unwrap();
    assert!(read.direct().is_none());
    for (offset, len) in
        [(0, 0), (0, 1), (1, 4096), (4095, 2), (4096, 4096), (8191, 9000), (whole.len(), 0)]
    {
        for source in [&mapped, &read, &direct] {
            source.will_need(0, offset as u64, len);
            let window = source.window(0, offset as u64, len).unwrap();
            window.populate().unwrap();
            assert_eq!(&*window, &whole[offset..offset + len], "{len} at {offset}");
        }
    }
    for info in checkpoint.tensors() {
        let window = read.window(info.shard, info.offset, info.n_bytes as usize).unwrap();
        assert!(window.iter().enumerate().all(|(i, &b)| b == (i % 251) as u8), "{}", info.name);
    }
}

#[test]
fn ranges_outside_the_file_are_refused_and_hints_ignore_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = put(dir.path(), "x.safetensors", vectors(&[("a", 3)]));
    let checkpoint = Checkpoint::open(&path).unwrap();
    let len = checkpoint.total_bytes();
    for map in [mapping(), MapChoice::never(), MapChoice::direct()] {
        let source = Source::new(&checkpoint, &map).unwrap();
        for (shard, offset, n) in
            [(0, len, 1), (0, 0, len as usize + 1), (0, u64::MAX, 1), (0, 1, usize::MAX), (1, 0, 0)]
        {
            source.will_need(shard, offset, n);
            let error = source.window(shard, offset, n).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        }
    }
}

#[test]
fn files_that_change_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = put(dir.path(), "x.safetensors", vectors(&[("a", 300)]));
    let checkpoint = Checkpoint::open(&path).unwrap();
    checkpoint.shards()[0].check_unchanged().unwrap();
    let sources = [mapping(), MapChoice::never(), MapChoice::direct()]
        .map(|m| Source::new(&checkpoint, &m).unwrap());
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(20).unwrap();
    let error = checkpoint.shards()[0].check_unchanged().unwrap_err();
    assert!(error.to_string().contains("was changed"), "{error}");
    assert!(Source::new(&checkpoint, &MapChoice::never()).is_err());
    for source in sources {
        let error = source.window(0, 100, 50).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_window_that_lost_its_pages_is_an_error_before_it_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let path = put(dir.path(), "x.safetensors", vectors(&[("a", 50_000)]));
    let source = Source::new(&Checkpoint::open(&path).unwrap(), &mapping()).unwrap();
    let end = fs::metadata(&path).unwrap().len();
    let window = source.window(0, end - 20_000, 20_000).unwrap();
    window.populate().unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(2000).unwrap();
    let error = window.populate().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("x.safetensors was cut short"), "{error}");
}

#[test]
fn read_buffers_are_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = put(dir.path(), "x.safetensors", vectors(&[("a", 3000)]));
    let source = Source::new(&Checkpoint::open(&path).unwrap(), &MapChoice::never()).unwrap();
    let first = source.window(0, 0, 2000).unwrap();
    let at = first.as_ptr();
    drop(first);
    let second = source.window(0, 10, 1000).unwrap();
    assert_eq!((second.as_ptr(), second.len()), (at, 1000));
}

#[test]
fn threads_share_a_source() {
    let dir = tempfile::tempdir().unwrap();
    let path = put(dir.path(), "x.safetensors", vectors(&[("a", 50_000)]));
    let whole = fs::read(&path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    for map in [mapping(), MapChoice::never(), MapChoice::direct()] {
        let source = Source::new(&checkpoint, &map).unwrap();
        std::thread::scope(|scope| {
            for t in 0..4 {
                let (source, whole) = (&source, &whole);
                scope.spawn(move || {
                    for i in 0..50 {
                        let (at, len) = (t * 1000 + i * 37, 700 + i);
                        assert_eq!(*source.window(0, at as u64, len).unwrap(), whole[at..at + len]);
                    }
                });
            }
        });
    }
}
