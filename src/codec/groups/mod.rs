//! Tiles as the quantised survivors of groups of entries (DeltaDQ), with positions in one of three
//! forms: drawn again, inside their group, or as compressed sparse rows in parts by value.
//!
//! Payload: settings, scale and zero point, positions, codes (FORMAT.md section 6.5).

mod csr;

use crate::codec::delta::{DeltaTile, rows_in_cache, strips};
use crate::codec::groups::csr::{SparsePart, write_csr};
use crate::codec::mask::{self, MaskPlace, kept_in_row};
use crate::codec::{Codec, CodecId, Operand, Part, Parts, Scratch, Target, stored_bits};
use crate::error::{Error, Result};
use crate::kernel::{pack, quantise};
use crate::wire::{Reader, Writer};

/// Most entries a group has.
pub(crate) const MAX_GROUP: u32 = 1 << 16;

/// Bytes of a payload before positions and codes.
const SETTINGS: usize = 19;

/// The codec of grouped survivors.
#[derive(Debug)]
pub(crate) struct Groups;

/// How positions are stored. The number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum IndexForm {
    /// Not at all: the mask is drawn again.
    Seed = 0,
    /// Inside their group.
    InGroup = 1,
    /// As compressed sparse rows.
    Csr = 2,
}

/// How survivors are chosen and quantised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Decisions {
    /// Entries a group, a multiple of `alpha`.
    pub(crate) group: u32,
    /// One entry of so many survives.
    pub(crate) alpha: u32,
    /// Bits of a code, 1 to 8.
    pub(crate) bits: u8,
    /// Parts by value, as a power of two; more than one for sparse rows alone.
    pub(crate) log2_parts: u8,
    pub(crate) index: IndexForm,
    /// A survivor is `scale * (code - zero)`.
    pub(crate) scale: f32,
    pub(crate) zero: i32,
}

impl Decisions {
    fn shape(&self, n_cols: usize) -> (usize, usize, usize) {
        (n_cols, self.group as usize, self.alpha as usize)
    }

    fn kept_in_row(&self, n_cols: usize) -> usize {
        kept_in_row(n_cols, self.group as usize, self.alpha as usize)
    }

    /// Bits left of a code once its part is known.
    fn part_bits(&self) -> u8 {
        self.bits - self.log2_parts
    }

    /// Codes of survivors.
    fn codes(&self, values: &[f32], codes: &mut Vec<u8>) {
        codes.resize(values.len(), 0);
        let (alpha, scale, zero) = (self.alpha.into(), self.scale.into(), self.zero.into());
        quantise::quantise_affine(values, alpha, scale, zero, u8::MAX >> (8 - self.bits), codes);
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut w = Writer(std::mem::take(out));
        w.u32(self.group);
        w.u32(self.alpha);
        w.u8(self.bits);
        w.u8(self.log2_parts);
        w.u8(self.index as u8);
        w.u32(self.scale.to_bits());
        w.u32(self.zero as u32);
        *out = w.0;
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let (group, alpha, bits, log2_parts) = (r.u32()?, r.u32()?, r.u8()?, r.u8()?);
        let index = match r.u8()? {
            0 => IndexForm::Seed,
            1 => IndexForm::InGroup,
            2 => IndexForm::Csr,
            code => return Err(Error::unknown("index form", code)),
        };
        let (scale, zero) = (f32::from_bits(r.u32()?), r.u32()? as i32);
        let d = Self { group, alpha, bits, log2_parts, index, scale, zero };
        let grouped = alpha > 0 && (alpha..=MAX_GROUP).contains(&group) && group % alpha == 0;
        let parted = log2_parts <= bits && (log2_parts == 0 || index == IndexForm::Csr);
        if !grouped || !(1..=8).contains(&bits) || !parted || !scale.is_finite() {
            return Err(Error::corrupt("group settings are out of range"));
        }
        Ok(d)
    }
}

/// The least and greatest survivor of a tile; `None` if its delta is not finite.
pub(crate) fn survivor_range(
    tile: &DeltaTile<'_>,
    place: MaskPlace,
    (group, alpha): (u32, u32),
    scratch: &mut Scratch,
) -> Option<(f32, f32)> {
    let shape = (tile.n_cols, group as usize, alpha as usize);
    let (mut range, mut sum) = ((f32::MAX, f32::MIN), 0.0);
    let Scratch { strip, work, draws, positions, .. } = scratch;
    for rows in tile.cached_strips() {
        tile.rows(&rows, strip);
        sum += quantise::sum_abs(strip);
        work.clear();
        for (row, values) in rows.zip(strip.chunks_exact(tile.n_cols)) {
            mask::group_survivors(place, row, shape, draws, positions);
            work.extend(positions.iter().map(|i| values[*i as usize]));
        }
        if !work.is_empty() {
            let (low, high) = quantise::min_max(work);
            range = (range.0.min(low), range.1.max(high));
        }
    }
    f64::is_finite(sum).then_some(range)
}

/// Appends the payload of a tile.
pub(crate) fn encode(
    tile: &DeltaTile<'_>,
    place: MaskPlace,
    d: &Decisions,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) {
    let Scratch { strip, work, codes, draws, positions, columns, .. } = scratch;
    work.clear();
    columns.clear();
    for rows in tile.cached_strips() {
        tile.rows(&rows, strip);
        for (row, values) in rows.zip(strip.chunks_exact(tile.n_cols)) {
            mask::group_survivors(place, row, d.shape(tile.n_cols), draws, positions);
            work.extend(positions.iter().map(|i| values[*i as usize]));
            if d.index != IndexForm::Seed {
                columns.extend_from_slice(positions);
            }
        }
    }
    d.codes(work, codes);
    d.write(out);
    match d.index {
        IndexForm::Seed => pack::pack(codes, stored_bits(d.bits), out),
        IndexForm::InGroup => {
            write_in_group(columns, d.group, out);
            pack::pack(codes, stored_bits(d.bits), out);
        }
        IndexForm::Csr => write_csr(codes, columns, d, tile.n_cols, out),
    }
}

/// Most bytes of the payload of a tile of which one entry of `alpha` survives, in so many parts by value.
pub(crate) fn max_len_of((group, alpha): (u32, u32), parts: usize, target: &Target) -> usize {
    let n = target.n_rows * kept_in_row(target.n_cols, group as usize, alpha as usize);
    // Sparse rows are the largest form; codes of each part begin with a byte of their own.
    SETTINGS + parts * (4 * (target.n_rows + 1) + 1) + 5 * n
}

/// Bits a position inside a group is stored in.
fn position_bits(group: u32) -> u32 {
    match group.next_power_of_two().trailing_zeros() {
        bits @ 0..=8 => stored_bits(bits.max(1) as u8),
        _ => 16,
    }
}

fn write_in_group(columns: &[u32], group: u32, out: &mut Vec<u8>) {
    let inside = columns.iter().map(|c| c % group);
    match position_bits(group) {
        16 => inside.for_each(|p| out.extend((p as u16).to_le_bytes())),
        bits => pack::pack(&inside.map(|p| p as u8).collect::<Vec<_>>(), bits, out),
    }
}

/// The parts of a payload after its settings.
enum Positions<'a> {
    Drawn,
    /// Position of every survivor inside its group.
    InGroup(Vec<u16>),
    Csr(Vec<SparsePart<'a>>),
}

/// Everything a payload says about a tile.
struct Payload<'a> {
    d: Decisions,
    positions: Positions<'a>,
    /// Codes in row order; of no use for sparse rows.
    codes: Vec<u8>,
}

impl<'a> Payload<'a> {
    /// Takes a payload apart; `codes` is a buffer for those it has.
    fn parse(payload: &'a [u8], target: &Target, mut codes: Vec<u8>) -> Result<Self> {
        let r = &mut Reader::new(payload);
        let d = Decisions::read(r)?;
        let n = target.n_rows * d.kept_in_row(target.n_cols);
        let mut unpack = |r: &mut Reader<'a>| {
            let width = stored_bits(d.bits);
            codes.resize(n, 0);
            pack::unpack(r.take((n * width as usize).div_ceil(8))?, width, &mut codes);
            Ok::<_, Error>(())
        };
        let positions = match d.index {
            IndexForm::Seed => {
                unpack(r)?;
                Positions::Drawn
            }
            IndexForm::InGroup => {
                let width = position_bits(d.group);
                let bytes = r.take((n * width as usize).div_ceil(8))?;
                let inside = if width == 16 {
                    bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect()
                } else {
                    let mut inside = vec![0; n];
                    pack::unpack(bytes, width, &mut inside);
                    inside.into_iter().map(u16::from).collect()
                };
                unpack(r)?;
                Positions::InGroup(inside)
            }
            IndexForm::Csr => {
                let n_parts = 1usize << d.log2_parts;
                let part = |_| SparsePart::read(r, &d, target.n_rows, target.n_cols);
                Positions::Csr((0..n_parts).map(part).collect::<Result<_>>()?)
            }
        };
        r.end()?;
        Ok(Self { d, positions, codes })
    }

    /// Columns and codes of one row.
    fn row(
        &self,
        row: usize,
        target: &Target,
        draws: &mut Vec<u16>,
        columns: &mut Vec<u32>,
        codes: &mut Vec<u8>,
    ) {
        let n_cols = target.n_cols;
        let per_row = self.d.kept_in_row(n_cols);
        let part = row * per_row..(row + 1) * per_row;
        codes.clear();
        match &self.positions {
            Positions::Drawn => {
                mask::group_survivors(target.place, row, self.d.shape(n_cols), draws, columns);
                codes.extend_from_slice(&self.codes[part]);
            }
            Positions::InGroup(inside) => {
                let a_group = (self.d.group / self.d.alpha) as usize;
                columns.clear();
                let placed = inside[part.clone()].iter().enumerate();
                columns.extend(
                    placed.map(|(k, p)| (k / a_group) as u32 * self.d.group + u32::from(*p)),
                );
                codes.extend_from_slice(&self.codes[part]);
            }
            Positions::Csr(parts) => {
                columns.clear();
                for (j, part) in parts.iter().enumerate() {
                    let high = (j as u32) << self.d.part_bits();
                    for (column, low) in part.row(row, n_cols) {
                        columns.push(column);
                        codes.push(high as u8 | low);
                    }
                }
            }
        }
    }
}

impl Codec for Groups {
    fn id(&self) -> CodecId {
        CodecId::Groups
    }

    fn max_len(&self, target: &Target) -> usize {
        // Sparse rows in 256 parts are the largest form.
        SETTINGS + 256 * 4 * (target.n_rows + 1) + 5 * target.n_elements()
    }

    fn decode(
        &self,
        payload: &[u8],
        target: &Target,
        base: Option<Operand<'_>>,
        scratch: &mut Scratch,
        out: &mut [u8],
    ) -> Result<()> {
        let base = base.ok_or_else(|| Error::corrupt("survivors without a base"))?;
        let payload = Payload::parse(payload, target, std::mem::take(&mut scratch.kept))?;
        let d = &payload.d;
        let n_cols = target.n_cols;
        // What each code adds: scale and zero point are the tile's.
        let values: [f32; 256] = std::array::from_fn(|code| {
            (f64::from(d.scale) * (code as f64 - f64::from(d.zero))) as f32
        });
        let Scratch { strip, codes, draws, positions: columns, .. } = scratch;
        for (_, rows) in strips(target.n_rows, rows_in_cache(n_cols)) {
            strip.clear();
            strip.resize(rows.len() * n_cols, 0.0);
            for (row, delta) in rows.clone().zip(strip.chunks_exact_mut(n_cols)) {
                payload.row(row, target, draws, columns, codes);
                for (column, code) in columns.iter().zip(codes.iter()) {
                    let slot = delta.get_mut(*column as usize);
                    *slot.ok_or_else(|| Error::corrupt("a column lies outside its row"))? =
                        values[usize::from(*code)];
                }
            }
            target.add_rows(base, &rows, strip, out);
        }
        scratch.kept = payload.codes;
        Ok(())
    }

    fn parts(&self, payload: &[u8], target: &Target) -> Result<Parts> {
        let Payload { d, positions, .. } = Payload::parse(payload, target, Vec::new())?;
        let mut parts = vec![(Part::Scales, SETTINGS)];
        match positions {
            Positions::Drawn => {}
            Positions::InGroup(inside) => {
                let bits = inside.len() * position_bits(d.group) as usize;
                parts.push((Part::Positions, bits.div_ceil(8)));
            }
            Positions::Csr(sparse) => {
                let bits = if d.part_bits() > 0 { stored_bits(d.part_bits()) as usize } else { 0 };
                for part in sparse {
                    parts.push((Part::Positions, part.offsets.len() * 4 + part.columns.len()));
                    parts.push((Part::Codes, (part.low.len() * bits).div_ceil(8)));
                }
                return Ok(parts);
            }
        }
        let before: usize = parts.iter().map(|(_, n)| n).sum();
        parts.push((Part::Codes, payload.len() - before));
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn round_trip(d: &Decisions, n_rows: usize, n_cols: usize) -> (Vec<f32>, Vec<f32>, usize) {
        let ft: Vec<f32> = (1..=n_rows * n_cols).map(|i| (i as f32 * 0.37).sin()).collect();
        let bytes: Vec<u8> = ft.iter().flat_map(|v| v.to_le_bytes()).collect();
        let zeros = vec![0; bytes.len()];
        let operand = |bytes| Operand { dtype: DType::F32, bytes };
        let tile = DeltaTile { ft: operand(&bytes), base: operand(&zeros), n_rows, n_cols };
        let place = MaskPlace { key: 3, first_row: 0 };
        let (mut scratch, mut payload) = (Scratch::default(), Vec::new());
        encode(&tile, place, d, &mut scratch, &mut payload);
        let target = Target { dtype: DType::F32, n_rows, n_cols, patch: 1, place, gain: 1.0 };
        assert!(payload.len() <= Groups.max_len(&target));
        let (mut out, base) = (vec![0; bytes.len()], Some(operand(&zeros[..])));
        Groups.decode(&payload, &target, base, &mut scratch, &mut out).unwrap();
        check_parts(d, &payload, &target);
        for cut in [3, 18, payload.len() - 1] {
            let cut = &payload[..cut];
            assert!(Groups.parts(cut, &target).is_err());
            assert!(
                Groups.decode(cut, &target, base, &mut scratch, &mut vec![0; out.len()]).is_err()
            );
        }
        let back = out.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (ft, back, payload.len())
    }

    /// Parts cover the payload, and have the lengths that the form gives them.
    fn check_parts(d: &Decisions, payload: &[u8], target: &Target) {
        let parts = Groups.parts(payload, target).unwrap();
        assert_eq!(parts.iter().map(|(_, n)| n).sum::<usize>(), payload.len());
        let of = |part| parts.iter().filter(|p| p.0 == part).map(|(_, n)| n).sum::<usize>();
        let n = target.n_rows * d.kept_in_row(target.n_cols);
        let positions = match d.index {
            IndexForm::Seed => 0,
            IndexForm::InGroup => (n * position_bits(d.group) as usize).div_ceil(8),
            IndexForm::Csr => ((4 * (target.n_rows + 1)) << d.log2_parts) + 2 * n,
        };
        assert_eq!((of(Part::Positions), of(Part::Scales)), (positions, 19));
    }

    fn decisions(index: IndexForm, group: u32, bits: u8, log2_parts: u8) -> Decisions {
        let top = f32::from(u8::MAX >> (8 - bits));
        // Survivors lie between -4 and 4; a whole zero point puts a level on zero.
        let scale = 8.0 / top;
        let zero = (4.0 / scale).round_ties_even() as i32;
        Decisions { group, alpha: 4, bits, log2_parts, index, scale, zero }
    }

    #[test]
    fn all_forms_of_positions_restore_the_same() {
        for (group, n_cols) in [(4, 64), (16, 100), (300, 700)] {
            let (ft, seeded, _) = round_trip(&decisions(IndexForm::Seed, group, 4, 0), 9, n_cols);
            for (index, log2_parts) in [
                (IndexForm::InGroup, 0),
                (IndexForm::Csr, 0),
                (IndexForm::Csr, 2),
                (IndexForm::Csr, 4),
            ] {
                let d = decisions(index, group, 4, log2_parts);
                assert_eq!(round_trip(&d, 9, n_cols).1, seeded, "{d:?}");
            }
            for (x, y) in ft.iter().zip(&seeded) {
                assert!(*y == 0.0 || (4.0 * x - y).abs() <= 8.0 / 15.0, "{x} {y}");
            }
        }
    }

    #[test]
    fn every_width_fits() {
        for bits in 1..=8 {
            for log2_parts in 0..=bits {
                let d = decisions(IndexForm::Csr, 8, bits, log2_parts);
                let seeded = decisions(IndexForm::Seed, 8, bits, 0);
                assert_eq!(round_trip(&d, 5, 40).1, round_trip(&seeded, 5, 40).1);
            }
        }
    }
}
