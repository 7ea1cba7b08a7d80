//! Strips of matrix rows to square patches and back. Copies only; no arithmetic.
//!
//! A strip is at most `p` whole rows. Its patches stand one after another, each `p * p` row-major
//! elements, from left to right.

/// Cuts `n_rows <= p` rows of `n_cols` columns into `ceil(n_cols / p)` patches, with zeros beyond the
/// last row and column.
pub fn gather(strip: &[f32], n_cols: usize, n_rows: usize, p: usize, patches: &mut [f32]) {
    debug_assert!(n_rows <= p && strip.len() >= n_rows * n_cols);
    if n_cols == 0 || p == 0 {
        return;
    }
    for (k, patch) in patches.chunks_exact_mut(p * p).take(n_cols.div_ceil(p)).enumerate() {
        let width = p.min(n_cols - k * p);
        let (rows, below) = patch.split_at_mut(n_rows.min(p) * p);
        for (to, from) in rows.chunks_exact_mut(p).zip(strip.chunks_exact(n_cols)) {
            to[..width].copy_from_slice(&from[k * p..k * p + width]);
            to[width..].fill(0.0);
        }
        below.fill(0.0);
    }
}

/// The inverse: copies back what lies inside the strip.
pub fn scatter(patches: &[f32], n_cols: usize, n_rows: usize, p: usize, strip: &mut [f32]) {
    debug_assert!(n_rows <= p && strip.len() >= n_rows * n_cols);
    if n_cols == 0 || p == 0 {
        return;
    }
    for (k, patch) in patches.chunks_exact(p * p).take(n_cols.div_ceil(p)).enumerate() {
        let width = p.min(n_cols - k * p);
        let rows = patch.chunks_exact(p).take(n_rows);
        for (from, to) in rows.zip(strip.chunks_exact_mut(n_cols)) {
            to[k * p..k * p + width].copy_from_slice(&from[..width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_ragged_strip_is_padded_with_zeros() {
        let strip: Vec<f32> = (1..=10).map(|i| i as f32).collect();
        let mut patches = vec![9.0; 2 * 16];
        gather(&strip, 5, 2, 4, &mut patches);
        assert_eq!(patches[..8], [1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0]);
        assert_eq!(patches[16..24], [5.0, 0.0, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0]);
        assert!(patches[8..16].iter().chain(&patches[24..]).all(|&x| x == 0.0));
    }

    proptest! {
        #[test]
        fn scatter_undoes_gather(p in prop::sample::select(vec![8usize, 16, 32, 64]), n_cols in 0usize..200, missing in 0usize..8) {
            let n_rows = p - missing;
            let strip: Vec<f32> = (0..n_rows * n_cols).map(|i| i as f32).collect();
            let mut patches = vec![f32::NAN; n_cols.div_ceil(p) * p * p];
            gather(&strip, n_cols, n_rows, p, &mut patches);
            let sum: f64 = patches.iter().map(|&x| f64::from(x)).sum();
            prop_assert_eq!(sum, strip.iter().map(|&x| f64::from(x)).sum::<f64>());
            let mut back = vec![f32::NAN; strip.len()];
            scatter(&patches, n_cols, n_rows, p, &mut back);
            prop_assert_eq!(back, strip);
        }
    }
}
