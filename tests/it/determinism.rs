//! The same input and options give the same bytes, whatever the machine and its load are like.

use std::fs;
use std::sync::{Mutex, PoisonError};

use delta_stream::{
    Auto, BaseShift, BaseVector, BitDelta, CompressOptions, Dare, DeltaDct, DeltaDq, GroupIndex,
    IoMode, MapChoice, Method, PairShape, Rates, Resources, RestoreOptions, SignScale, Silent,
    Size, TraceOf, TraceReference, UltraDelta, kernel,
};

use crate::made::{Files, Outcome, Place, read};

/// The switch of the vector code is the process's: one test at a time.
static SIMD: Mutex<()> = Mutex::new(());

/// Ways to run that must not show: threads, memory in MiB, how files are read, vector code.
const WAYS: [(usize, u64, IoMode, bool); 7] = [
    (2, 512, IoMode::Direct, true),
    (1, 128, IoMode::Read, true),
    (7, 2048, IoMode::Mmap, true),
    (2, 128, IoMode::Mmap, false),
    (7, 128, IoMode::Read, true),
    (1, 2048, IoMode::Auto, false),
    (7, 256, IoMode::Direct, true),
];

fn resources(threads: usize, mib: u64, io: IoMode) -> Resources {
    Resources::default().with_threads(threads).with_max_memory(mib << 20).with_map(choice(io))
}

#[expect(unsafe_code, reason = "the promise of MapChoice is made here")]
pub(crate) fn choice(io: IoMode) -> MapChoice {
    match io {
        IoMode::Read => MapChoice::never(),
        IoMode::Direct => MapChoice::direct(),
        // SAFETY: the test wrote these files and changes them no more.
        IoMode::Mmap => unsafe { MapChoice::trusting_files_stay_unchanged() },
        // SAFETY: as above.
        _ => unsafe { MapChoice::trusting_local_files_stay_unchanged() },
    }
}

fn archive_of(
    place: &Place,
    method: &Method,
    shift: Option<BaseShift>,
    resources: Resources,
) -> Outcome<Vec<u8>> {
    let (base, ft) = (place.path("base"), place.path("fine-tune"));
    let options = CompressOptions::new(method.clone())
        .with_base_shift(shift)
        .with_name("v")
        .with_force(true)
        .with_resources(resources);
    delta_stream::compress(&ft, &base, &place.archive, &options, &Silent)?;
    Ok(fs::read(&place.archive)?)
}

fn restored_of(place: &Place, resources: Resources) -> Outcome<Files> {
    let to = place.path("restored");
    let options = RestoreOptions::default().with_force(true).with_resources(resources);
    delta_stream::restore(&place.archive, &place.base, &to, &options, &Silent)?;
    read(&to)
}

/// A pair with matrices and tables of several tiles, edges that fill no patch, and few bytes else.
fn pair() -> Outcome<Place> {
    let place = Place::empty()?;
    let shape = PairShape::small().with_sizes(200, 5300, 300, 1);
    delta_stream::make_pair(&place.path(""), &shape, 2)?;
    Ok(place)
}

fn check(place: &Place, method: &Method) -> Outcome {
    check_shifted(place, method, None)
}

fn check_shifted(place: &Place, method: &Method, shift: Option<BaseShift>) -> Outcome {
    let _alone = SIMD.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut archive, mut restored) = (None, None);
    for (threads, mib, io, simd) in WAYS {
        kernel::set_simd(simd);
        let way = format!("{method:?}: {threads} threads, {mib} MiB, {io:?}, simd {simd}");
        let bytes = archive_of(place, method, shift.clone(), resources(threads, mib, io))?;
        assert!(archive.get_or_insert_with(|| bytes.clone()) == &bytes, "{way}: archive");
        let files = restored_of(place, resources(threads, mib, io))?;
        assert!(restored.get_or_insert_with(|| files.clone()) == &files, "{way}: restored");
    }
    kernel::set_simd(true);
    Ok(())
}

fn check_dct(patches: &[u16], allocation: &str) -> Outcome {
    let place = pair()?;
    for patch in patches {
        let method = DeltaDct::default().with_patch(*patch).with_allocation(allocation.parse()?);
        check(&place, &Method::DeltaDct(method))?;
    }
    Ok(())
}

#[test]
fn lossless() -> Outcome {
    check(&pair()?, &Method::Lossless)
}

#[test]
fn delta_dct_of_every_patch_side() -> Outcome {
    check_dct(&[8, 16, 32, 64], "2:0.5,0:0.5")
}

#[test]
fn delta_dct_of_other_allocations() -> Outcome {
    check_dct(&[8], "8:0.1,5:0.2,3:0.2,1:0.3,0:0.2")?;
    check_dct(&[16], "1:1")
}

#[test]
fn delta_dct_without_rescale() -> Outcome {
    check(&pair()?, &Method::DeltaDct(DeltaDct::default().with_rescale(false)))
}

#[test]
fn methods_that_draw_or_take_signs() -> Outcome {
    let bitdelta = BitDelta::default().with_scale(SignScale::Unbiased).with_planes(2);
    check(&pair()?, &Method::BitDelta(bitdelta))?;
    check(&pair()?, &Method::Dare(Dare::default()))?;
    check(&pair()?, &Method::DeltaDq(DeltaDq::default()))?;
    let sparse = DeltaDq::default().with_index(GroupIndex::Csr, 8);
    check(&pair()?, &Method::DeltaDq(sparse))
}

#[test]
fn auto_of_codewords_and_of_whole_numbers() -> Outcome {
    for size in [Size::Bits(0.2), Size::Bits(2.0), Size::Ratio(8.0)] {
        check(&pair()?, &Method::Auto(Auto::default().with_size(size)))?;
    }
    Ok(())
}

#[test]
fn a_method_that_decides_over_the_whole_model() -> Outcome {
    check(&pair()?, &Method::UltraDelta(UltraDelta::default()))?;
    let reference = TraceReference::Value(1.0);
    for of in [TraceOf::Survivors, TraceOf::Delta] {
        let method = UltraDelta::default().with_sparsity(0.9, 0.02).with_trace(reference, of, 0.0);
        check(&pair()?, &Method::UltraDelta(method.with_rates(Rates::Paper, false)))?;
    }
    Ok(())
}

#[test]
fn a_shifted_base() -> Outcome {
    let shift = Some(BaseShift::new(BaseVector::Own));
    check_shifted(&pair()?, &Method::BitDelta(BitDelta::default()), shift)
}
