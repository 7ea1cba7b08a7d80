//! What is planned and written opens as what it was, in our reader and the format's own.

use proptest::prelude::*;

use crate::checkpoint::{
    Checkpoint, CheckpointWriter, MapChoice, Source, header_metadata, parse_layout, plan_shards,
};
use crate::tensor::{DType, Shape};

type Tensor = (String, DType, Shape, Vec<u8>);

fn tensors() -> impl Strategy<Value = Vec<Tensor>> {
    let dtype = prop::sample::select(DType::all().collect::<Vec<_>>());
    let shape = prop::collection::vec(0u64..5, 0..4);
    let name = "[a-z.\u{e4}\"\\\\\n ]{0,6}";
    let tensor = (name, dtype, shape, any::<u8>()).prop_map(|(name, dtype, mut shape, seed)| {
        if dtype.bits() < 8 {
            shape.push(4);
        }
        let n = shape.iter().product::<u64>() as usize * dtype.bits() / 8;
        (name, dtype, shape, (0..n).map(|i| seed.wrapping_add(i as u8)).collect())
    });
    prop::collection::vec(tensor, 0..12).prop_map(|list| {
        // Names are unique within a model.
        let number = |(i, (name, d, s, b)): (usize, Tensor)| (format!("{name}{i}"), d, s, b);
        list.into_iter().enumerate().map(number).collect()
    })
}

fn written_opens_as_it_was(tensors: &[Tensor], metadata: Option<&Vec<(String, String)>>, max: u64) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("out");
    let planned: Vec<_> =
        tensors.iter().map(|(n, d, s, b)| (n.clone(), *d, s.clone(), b.len() as u64)).collect();
    let layouts = plan_shards(&planned, metadata, max).unwrap();
    let mut writer = CheckpointWriter::create(&dir, false).unwrap();
    for layout in &layouts {
        assert_eq!(layout.header.len() % 8, 0);
        let again = parse_layout(&layout.file_name, &layout.header, "test").unwrap();
        assert_eq!(&again, layout);
        let shard = writer.start_shard(layout).unwrap();
        for (name, offset, n_bytes) in &layout.tensors {
            let bytes = &tensors.iter().find(|t| t.0 == *name).unwrap().3;
            assert_eq!(bytes.len() as u64, *n_bytes);
            writer.write_at(shard, *offset, bytes).unwrap();
        }
        writer.finish_shard(shard).unwrap();
    }
    writer.write_index(false).unwrap();
    writer.commit().unwrap();

    let checkpoint = Checkpoint::open(&dir).unwrap();
    assert_eq!(checkpoint.shards().len(), layouts.len());
    assert_eq!(checkpoint.tensors().len(), tensors.len());
    let source = Source::new(&checkpoint, &MapChoice::never()).unwrap();
    for (name, dtype, shape, bytes) in tensors {
        let (_, info) = checkpoint.find(name).unwrap();
        assert_eq!((info.dtype, &info.shape), (*dtype, shape));
        assert_eq!(&*source.window(info.shard, info.offset, bytes.len()).unwrap(), &bytes[..]);
    }
    for shard in checkpoint.shards() {
        let stored = header_metadata(&shard.header, &shard.file_name).unwrap();
        assert_eq!(stored.as_ref(), metadata);
        let bytes = std::fs::read(&shard.path).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in theirs.iter() {
            assert_eq!(view.data(), tensors.iter().find(|t| t.0 == name).unwrap().3);
        }
    }
}

proptest! {
    // Each case is a directory with several syncs.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_tensors_come_back(tensors in tensors(), max in 1u64..400, has_metadata in any::<bool>()) {
        let metadata = vec![("format".to_owned(), "pt".to_owned()), ("\"".to_owned(), "\u{1}".to_owned())];
        written_opens_as_it_was(&tensors, has_metadata.then_some(&metadata), max);
    }
}

#[test]
fn every_dtype_and_empty_shape_comes_back() {
    let of = |d: DType, shape: Shape, n: usize| (format!("{d:?}{shape:?}"), d, shape, vec![9; n]);
    let all = DType::all().flat_map(|d| {
        let scalar = if d.bits() < 8 { vec![8] } else { vec![] };
        let n = if d.bits() < 8 { d.bits() } else { d.bits() / 8 };
        [of(d, vec![4, 0], 0), of(d, scalar, n), of(d, vec![0], 0)]
    });
    written_opens_as_it_was(&all.collect::<Vec<_>>(), None, 20);
    written_opens_as_it_was(&[], None, 1);
}

#[test]
fn shards_fill_up_to_the_maximum_and_are_numbered() {
    let bytes = |n: u64| (format!("t{n}"), DType::U8, vec![n], n);
    let sizes = |list: &[u64], max| -> Vec<(String, usize)> {
        let planned: Vec<_> = list.iter().map(|&n| bytes(n)).collect();
        let layouts = plan_shards(&planned, None, max).unwrap();
        layouts.into_iter().map(|l| (l.file_name, l.tensors.len())).collect()
    };
    assert_eq!(sizes(&[4, 6], 10), [("model.safetensors".to_owned(), 2)]);
    let counts: Vec<_> = sizes(&[4, 6, 1, 50, 2, 3], 10).into_iter().map(|s| s.1).collect();
    assert_eq!(counts, [2, 1, 1, 2]);
    assert_eq!(sizes(&[4, 7], 10)[1].0, "model-00002-of-00002.safetensors");
    for (bad, max) in [
        (vec![bytes(1)], 0),
        (vec![bytes(1), bytes(1)], 9),
        (vec![("__metadata__".to_owned(), DType::U8, vec![1], 1)], 9),
        (vec![("t".to_owned(), DType::F32, vec![1], 1)], 9),
    ] {
        assert!(plan_shards(&bad, None, max).is_err());
    }
}
