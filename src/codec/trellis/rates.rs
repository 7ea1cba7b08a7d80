//! Which rows of a tile have which rate.

use std::ops::Range;

use crate::codec::trellis::{HEADER, VARINT};
use crate::kernel::trellis::{self, Code};
use crate::wire::Writer;

/// Share by which values that are not quite Gaussian may take more than Gaussian ones.
const MORE: f64 = 1.004;
/// Bytes that the coder of an entropy-coded path leaves unused, on the mean, with the path's length.
const PATH_BYTES: f64 = 15.0;

/// The rates of a tile's rows: the second is that of the rows from `n_first` on, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rates {
    pub(super) first: usize,
    pub(super) second: usize,
    pub(super) n_first: usize,
    pub(super) n_rows: usize,
}

impl Rates {
    /// One rate where two would not differ.
    pub(super) fn new(first: usize, second: usize, n_first: usize, n_rows: usize) -> Self {
        match n_first {
            0 => Self { first: second, second, n_first: n_rows, n_rows },
            n if n >= n_rows || first == second => {
                Self { first, second: first, n_first: n_rows, n_rows }
            }
            _ => Self { first, second, n_first, n_rows },
        }
    }

    pub(super) fn are_two(self) -> bool {
        self.n_first < self.n_rows
    }

    /// Rates and rows of the paths.
    pub(super) fn parts(self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let both = [(self.first, 0..self.n_first), (self.second, self.n_first..self.n_rows)];
        both.into_iter().filter(|(_, rows)| !rows.is_empty())
    }

    pub(super) fn write_second(self, w: &mut Writer) {
        if self.are_two() {
            w.u8(self.second as u8);
            w.varint(self.n_first as u32);
        }
    }

    /// Code of the gains' distance.
    pub(super) fn distance(self) -> usize {
        distance(self.first.max(self.second))
    }
}

/// Code of the gains' distance at this rate: what a gain's rounding adds stays small beside the code's
/// noise.
pub(super) fn distance(rate: usize) -> usize {
    match rate {
        0..=2 => 0,
        3..=4 => 1,
        5..=6 => 2,
        _ => 3,
    }
}

/// Most bytes of a path of so many values; a few may need two bytes each, many need less than one.
pub(super) fn max_path_len(n: usize) -> usize {
    VARINT + n + 32
}

/// Bytes of a payload without its directions and gains, for a tile of so many rows and columns: exact
/// for rates of books, for others a little more than a Gaussian source takes on the mean.
pub(crate) fn path_bytes(
    (n_rows, n_cols): (usize, usize),
    (first, second, n_first): (usize, usize, usize),
) -> usize {
    let rates = Rates::new(first, second, n_first, n_rows);
    let mut w = Writer::default();
    rates.write_second(&mut w);
    let path_len = |(rate, rows): (usize, Range<usize>)| {
        let n = rows.len() * n_cols;
        let coded = || (n as f64 * trellis::BITS[rate] / 8.0 * MORE + PATH_BYTES) as usize;
        Code::path_len(rate, n).unwrap_or_else(coded)
    };
    HEADER + w.0.len() + rates.parts().map(path_len).sum::<usize>()
}
