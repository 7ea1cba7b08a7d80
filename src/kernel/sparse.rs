//! Products of a sparse row with a few vectors at once, whose numbers stand side by side.
//!
//! Without clones: time goes into fetching what the columns point to, and wider vectors are no faster.

/// Vectors that share a pass.
pub const LANES: usize = 4;

/// One number of each of the vectors.
pub type Lanes = [f64; LANES];

/// Adds to `sum` what stands in `x` at each column, times the value of that column's code.
/// Columns that `x` does not have count for nothing.
pub fn gather(columns: &[u16], codes: &[u8], values: &[f64; 256], x: &[Lanes], sum: &mut Lanes) {
    let mut total = *sum;
    for (&column, &code) in columns.iter().zip(codes) {
        let value = values[usize::from(code)];
        if let Some(x) = x.get(usize::from(column)) {
            for l in 0..LANES {
                total[l] += value * x[l];
            }
        }
    }
    *sum = total;
}

/// Adds to `out`, at each column, `x` times the value of that column's code. Columns that `out`
/// does not have are skipped.
pub fn scatter(columns: &[u16], codes: &[u8], values: &[f64; 256], x: &Lanes, out: &mut [Lanes]) {
    for (&column, &code) in columns.iter().zip(codes) {
        let value = values[usize::from(code)];
        if let Some(out) = out.get_mut(usize::from(column)) {
            for l in 0..LANES {
                out[l] += value * x[l];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_lane_is_a_plain_product(
            survivors in prop::collection::vec((0u16..50, any::<u8>()), 0..80),
            values in prop::collection::vec(-2.0..2.0f64, 256),
            x in prop::collection::vec(prop::array::uniform4(-2.0..2.0f64), 40),
        ) {
            let (columns, codes): (Vec<u16>, Vec<u8>) = survivors.iter().copied().unzip();
            let mut table = [0.0; 256];
            table.copy_from_slice(&values);
            let (mut sum, mut out) = (x[0], x.clone());
            gather(&columns, &codes, &table, &x, &mut sum);
            scatter(&columns, &codes, &table, &x[1], &mut out);
            for lane in 0..LANES {
                let (mut want_sum, mut want) = (x[0][lane], x.clone());
                for (column, code) in survivors.iter().filter(|s| s.0 < 40) {
                    let value = values[usize::from(*code)];
                    want_sum += value * x[usize::from(*column)][lane];
                    want[usize::from(*column)][lane] += value * x[1][lane];
                }
                prop_assert_eq!(sum[lane], want_sum);
                prop_assert!(out.iter().zip(&want).all(|(a, b)| a[lane] == b[lane]));
            }
        }
    }
}
