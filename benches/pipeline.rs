//! Whole verbs on a made-up pair, bytes of both checkpoints a second. Warm cache: this measures the
//! stages, not the disk.

#![expect(clippy::expect_used, reason = "a bench that cannot set up has nothing to measure")]

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use delta_stream::{
    CompressOptions, DeltaDct, MapChoice, Method, PairShape, Resources, RestoreOptions, Silent,
};

#[expect(unsafe_code, reason = "the one line that says the bench's files stay unchanged")]
fn resources(threads: usize) -> Resources {
    // SAFETY: the pair lies in a temporary directory of this process, which writes it once.
    let map = unsafe { MapChoice::trusting_files_stay_unchanged() };
    Resources::default().with_threads(threads).with_map(map)
}

fn verbs(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let shape = PairShape::small().with_sizes(1024, 2816, 8192, 4).with_shards(1, 1);
    delta_stream::make_pair(dir.path(), &shape, 2).expect("a made-up pair");
    let (base, ft) = (dir.path().join("base"), dir.path().join("fine-tune"));
    let archive = dir.path().join("bench.delta.zst");
    let bytes = |p: &Path| std::fs::metadata(p.join("model.safetensors")).expect("a shard").len();
    let mut group = c.benchmark_group("verbs");
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group.throughput(Throughput::Bytes(bytes(&base) + bytes(&ft)));
    for method in [Method::Lossless, Method::DeltaDct(DeltaDct::default())] {
        for threads in [1, 2] {
            let options = CompressOptions::new(method.clone())
                .with_resources(resources(threads))
                .with_force(true);
            group.bench_function(format!("compress/{}/{threads}", method.name()), |b| {
                b.iter(|| {
                    delta_stream::compress(&ft, &base, black_box(&archive), &options, &Silent)
                });
            });
        }
        let out = dir.path().join("restored");
        let options = RestoreOptions::default().with_resources(resources(2)).with_force(true);
        group.bench_function(format!("restore/{}/2", method.name()), |b| {
            b.iter(|| delta_stream::restore(&archive, &base, black_box(&out), &options, &Silent));
        });
    }
    group.finish();
}

criterion_group!(benches, verbs);
criterion_main!(benches);
