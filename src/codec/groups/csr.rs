//! Survivors as compressed sparse rows, in parts by value (FORMAT.md section 6.5).

use crate::codec::groups::Decisions;
use crate::codec::stored_bits;
use crate::error::{Error, Result};
use crate::kernel::pack;
use crate::wire::Reader;

/// Bytes of a column number.
fn column_bytes(n_cols: usize) -> usize {
    if n_cols <= 1 << 16 { 2 } else { 4 }
}

pub(super) fn write_csr(
    codes: &[u8],
    columns: &[u32],
    d: &Decisions,
    n_cols: usize,
    out: &mut Vec<u8>,
) {
    let per_row = d.kept_in_row(n_cols).max(1);
    for part in 0..1u8.checked_shl(d.log2_parts.into()).map_or(256, u16::from) {
        let is_in = |code: u8| u16::from(code) >> d.part_bits() == part;
        let mut offset = 0u32;
        out.extend(offset.to_le_bytes());
        for row in codes.chunks(per_row) {
            offset += row.iter().filter(|c| is_in(**c)).count() as u32;
            out.extend(offset.to_le_bytes());
        }
        let inside = || codes.iter().zip(columns).filter(|(c, _)| is_in(**c));
        let n = column_bytes(n_cols);
        inside().for_each(|(_, column)| out.extend(&column.to_le_bytes()[..n]));
        if d.part_bits() > 0 {
            let low = u8::MAX >> (8 - d.part_bits());
            let low: Vec<u8> = inside().map(|(c, _)| c & low).collect();
            pack::pack(&low, stored_bits(d.part_bits()), out);
        }
    }
}

/// One part by value of a tile in sparse rows.
pub(super) struct SparsePart<'a> {
    pub(super) offsets: &'a [[u8; 4]],
    pub(super) columns: &'a [u8],
    pub(super) low: Vec<u8>,
}

impl<'a> SparsePart<'a> {
    pub(super) fn read(
        r: &mut Reader<'a>,
        d: &Decisions,
        n_rows: usize,
        n_cols: usize,
    ) -> Result<Self> {
        let offsets = r.take((n_rows + 1) * 4)?.as_chunks::<4>().0;
        let at = |i: usize| offsets.get(i).map_or(0, |b| u32::from_le_bytes(*b) as usize);
        let n = at(n_rows);
        let ascending = (0..n_rows).all(|i| at(i) <= at(i + 1));
        if at(0) != 0 || !ascending || n > n_rows * n_cols {
            return Err(Error::corrupt("row offsets do not ascend"));
        }
        let columns = r.take(n * column_bytes(n_cols))?;
        let mut low = vec![0; n];
        if d.part_bits() > 0 {
            let width = stored_bits(d.part_bits());
            pack::unpack(r.take((n * width as usize).div_ceil(8))?, width, &mut low);
        }
        Ok(Self { offsets, columns, low })
    }

    /// The entries of one row: column and low bits.
    pub(super) fn row(&self, row: usize, n_cols: usize) -> impl Iterator<Item = (u32, u8)> + '_ {
        let at = |i: usize| self.offsets.get(i).map_or(0, |b| u32::from_le_bytes(*b) as usize);
        let n = column_bytes(n_cols);
        (at(row)..at(row + 1)).map(move |k| {
            let mut column = [0; 4];
            column[..n].copy_from_slice(&self.columns[k * n..k * n + n]);
            (u32::from_le_bytes(column), self.low[k])
        })
    }
}
