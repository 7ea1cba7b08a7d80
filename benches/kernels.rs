//! Speed of the kernels on one thread, in elements per second, with the clones and without.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use delta_stream::DType;
use delta_stream::kernel::{
    self, convert,
    dct::Dct,
    low_rank, pack,
    patch::{self, Deltas, Strip},
    planes, quantise, rans, select, trellis,
};

/// Elements per call: a quarter of a tile, which stays in the second-level cache or near it.
const N: usize = 1 << 18;
const SIDES: [usize; 4] = [8, 16, 32, 64];

/// Weights and a fine-tune of them: sums of six uniform numbers, the second a hundredth as wide.
fn weights() -> (Vec<f32>, Vec<f32>) {
    let mut state = 1u32;
    let mut noise = || {
        (0..6).fold(0.0, |sum, _| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            sum + (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        })
    };
    let base: Vec<f32> = (0..N).map(|_| 0.03 * noise()).collect();
    let ft = base.iter().map(|x| x + 0.0003 * noise()).collect();
    (base, ft)
}

/// Times `f` under `name` with vector clones and as compiled for any processor.
fn both(c: &mut Criterion, name: &str, mut f: impl FnMut()) {
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(N as u64)).sample_size(20);
    for (label, enabled) in [("simd", true), ("plain", false)] {
        kernel::set_simd(enabled);
        group.bench_function(label, |b| b.iter(&mut f));
    }
    kernel::set_simd(true);
    group.finish();
}

fn transforms(c: &mut Criterion) {
    let mut values = weights().0;
    for p in SIDES {
        let (dct, mut scratch) = (Dct::new(p), vec![0.0; p * p]);
        both(c, &format!("dct forward {p}"), || dct.forward_many(&mut values, &mut scratch));
        both(c, &format!("dct inverse {p}"), || dct.inverse_many(&mut values, &mut scratch));
    }
}

fn conversions(c: &mut Criterion) {
    let (base, ft) = weights();
    for dtype in [DType::BF16, DType::F16, DType::F32, DType::F8E4M3] {
        let bytes = |values: &[f32]| {
            let mut out = vec![0; N * dtype.bits() / 8];
            convert::from_f32(dtype, values, &mut out);
            out
        };
        let (base, ft, mut delta) = (bytes(&base), bytes(&ft), vec![0.0; N]);
        let (mut out, name) = (base.clone(), dtype.name());
        both(c, &format!("to_f32 {name}"), || convert::to_f32(dtype, &ft, &mut delta));
        let strip = |i| Strip { n_cols: N / 16, n_rows: 16, p: 16, patches: 32 * i..32 * i + 32 };
        let strips: Vec<_> = (0..(N / 8192) as u32).map(strip).collect();
        both(c, &format!("gather_difference 16 {name}"), || {
            for (strip, out) in strips.iter().zip(delta.chunks_exact_mut(8192)) {
                let all: [u32; 32] = std::array::from_fn(|k| strip.patches.start + k as u32);
                patch::gather_difference((dtype, &ft), (dtype, &base), strip, &all, out);
            }
        });
        both(c, &format!("add_patches 16 {name}"), || {
            for (strip, values) in strips.iter().zip(delta.chunks_exact(8192)) {
                let chosen: [u32; 32] = std::array::from_fn(|k| strip.patches.start + k as u32);
                let deltas = Deltas { chosen: &chosen, values, scale: (1.0, 1.0) };
                patch::add_patches((dtype, &base), strip, deltas, dtype, &mut out);
            }
        });
        both(c, &format!("squared_difference {name}"), || {
            _ = std::hint::black_box(convert::squared_difference((dtype, &ft), (dtype, &base)));
        });
        both(c, &format!("subtract {name}"), || {
            convert::subtract((dtype, &ft), (dtype, &base), &mut delta);
        });
        both(c, &format!("add {name}"), || {
            convert::add((dtype, &base), &delta, dtype, &mut out);
        });
        let (lane, mut split, mut work) = (planes::Lane::of(dtype), out.to_vec(), Vec::new());
        both(c, &format!("difference {name}"), || {
            planes::difference(&ft, &base, lane, &mut work, &mut split);
        });
        both(c, &format!("undo_difference {name}"), || {
            planes::undo_difference(&split, &base, lane, &mut work, &mut out);
        });
        both(c, &format!("split {name}"), || planes::split(&ft, lane, &mut split));
        both(c, &format!("merge {name}"), || planes::merge(&split, lane, &mut out));
    }
}

fn codes(c: &mut Criterion) {
    let values = weights().0;
    let (mut codes, mut packed, mut back) = (vec![0; N], Vec::new(), vec![0.0; N]);
    both(c, "min_max", || _ = std::hint::black_box(quantise::min_max(&values)));
    both(c, "sum_squares", || _ = std::hint::black_box(quantise::sum_squares(&values)));
    for bits in [2, 4, 5, 8] {
        both(c, &format!("quantise {bits}"), || {
            quantise::quantise(&values, -0.05, 0.05, bits, &mut codes);
        });
        both(c, &format!("pack {bits}"), || {
            packed.clear();
            pack::pack(&codes, bits, &mut packed);
        });
        both(c, &format!("unpack {bits}"), || pack::unpack(&packed, bits, &mut codes));
    }
    both(c, "dequantise", || quantise::dequantise(&codes, -0.05, 0.05, 8, &mut back));
    both(c, "histogram", || _ = std::hint::black_box(planes::histogram(&codes)));
    let (lo, hi) = quantise::min_max(&values);
    quantise::quantise(&values, lo, hi, 4, &mut codes);
    both(c, "rans encode", || {
        packed.clear();
        rans::encode(&codes, &mut packed);
    });
    both(c, "rans decode", || assert!(rans::decode(&packed, N, &mut codes)));
    let scores: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
    both(c, "classes_by_rank", || select::classes_by_rank(&scores, &[0.5, 0.5], &mut codes));
}

fn paths(c: &mut Criterion) {
    let values: Vec<f32> = weights().0.iter().map(|x| x * 47.0).collect();
    let (mut work, mut symbols, mut points) = (trellis::Work::default(), Vec::new(), Vec::new());
    let mut decoded = vec![0.0; N];
    for rate in 0..trellis::N_RATES {
        let (code, mut written) = (trellis::Code::new(rate), Vec::new());
        let bits = trellis::BITS[rate];
        both(c, &format!("trellis encode {bits}"), || {
            symbols.clear();
            let blocks = values.chunks(code.block());
            blocks.fold(0, |s, x| trellis::encode(&code, x, s, &mut work, &mut symbols));
        });
        both(c, &format!("trellis write {bits}"), || {
            written.clear();
            code.write(&symbols, &mut written);
        });
        both(c, &format!("trellis decode {bits}"), || {
            if let Some(path) = code.read(&written, N, &mut points) {
                code.values(path, 0, &mut decoded);
            }
        });
    }
}

fn directions(c: &mut Criterion) {
    let mut values = weights().0;
    // Nothing pays: what a block costs.
    both(c, "low_rank peel", || drop(low_rank::peel(&mut values, 512, 1.0, 8, |_| false)));
    let factors = low_rank::peel(&mut values.clone(), 512, 0.001, 8, |_| true);
    both(c, "low_rank add_rows 8", || low_rank::add_rows(&factors, 0..512, 1e-9, &mut values));
}

criterion_group!(benches, transforms, conversions, codes, paths, directions);
criterion_main!(benches);
