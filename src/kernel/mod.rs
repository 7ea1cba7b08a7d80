//! The compute kernels: pure loops over slices that cannot fail, do no I/O and keep no state.
//!
//! Speed comes from plain loops that the compiler turns into vector code, compiled once per
//! instruction set. No kernel reassociates a sum or fuses a multiplication with an addition, so
//! every clone gives the same bits on every machine.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether kernels may use the vector clones.
static SIMD: AtomicBool = AtomicBool::new(true);

/// Switches the vector clones on or off for the whole process; results do not depend on it.
/// Only tests and benches have a reason to call it.
#[doc(hidden)]
pub fn set_simd(enabled: bool) {
    SIMD.store(enabled, Ordering::Relaxed);
}

fn simd_enabled() -> bool {
    SIMD.load(Ordering::Relaxed)
}

/// Declares `fn name(args)` that runs `body(args)` in the widest clone this machine supports.
/// `body` must be `#[inline(always)]`, or a clone would call the one baseline copy of it.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:path;) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[multiversion::multiversion(targets(
                "x86_64+avx512f+avx512bw+avx512vl+avx512dq+avx2+bmi1+bmi2+lzcnt+popcnt",
                "x86_64+avx2+bmi1+bmi2+lzcnt+popcnt",
                "aarch64+neon",
            ))]
            fn widest($($arg: $ty),*) $(-> $ret)? {
                $body($($arg),*)
            }
            if $crate::kernel::simd_enabled() { widest($($arg),*) } else { $body($($arg),*) }
        }
    };
}

/// The same with clones of at most 256 bits, for kernels that wider vectors make slower.
macro_rules! vectorised_256 {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:path;) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) {
            #[multiversion::multiversion(targets(
                "x86_64+avx2+bmi1+bmi2+lzcnt+popcnt",
                "aarch64+neon",
            ))]
            fn widest($($arg: $ty),*) {
                $body($($arg),*)
            }
            if $crate::kernel::simd_enabled() { widest($($arg),*) } else { $body($($arg),*) }
        }
    };
}

pub mod adapted;
mod block;
mod butterfly;
pub mod bytes;
pub mod convert;
pub mod dct;
pub mod entropy;
mod float;
mod jacobi;
mod lane;
pub mod low_rank;
pub mod moment;
pub mod normal;
pub mod pack;
pub mod patch;
pub mod planes;
pub mod quantise;
pub mod random;
pub mod rans;
mod rans_stream;
pub mod rice;
pub mod rows;
pub mod sample;
pub mod select;
pub mod sparse;
pub mod trellis;
pub mod tridiagonal;

/// The sum of all lanes, a power of two of them, joined in pairs: the same on every machine.
#[inline(always)]
fn joined<T: Copy + std::ops::AddAssign, const N: usize>(mut sums: [T; N]) -> T {
    let mut width = N;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            let other = sums[i + width];
            sums[i] += other;
        }
    }
    sums[0]
}

/// Runs `f` with the vector clones and without, and returns both results. The lock keeps tests
/// that flip the process-wide switch from undoing each other.
#[cfg(test)]
fn both_ways<T>(mut f: impl FnMut() -> T) -> (T, T) {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _guard = LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    set_simd(true);
    let wide = f();
    set_simd(false);
    let plain = f();
    set_simd(true);
    (wide, plain)
}
