//! Small symmetric matrices: all eigenvalues and eigenvectors. Plain loops in f64, the same on every
//! machine.

/// Sweeps over all entries; eight rows converge in six.
const SWEEPS: usize = 10;

/// Leaves the eigenvalues of a symmetric matrix on its diagonal and returns its eigenvectors, a column
/// each (Jacobi, in cyclic order).
pub(super) fn diagonalise<const N: usize>(matrix: &mut [[f64; N]; N]) -> [[f64; N]; N] {
    let mut vectors = std::array::from_fn(|i| std::array::from_fn(|j| f64::from(i == j)));
    rotate(matrix, &mut vectors);
    vectors
}

/// The same for a matrix of any size.
pub(super) fn diagonalise_rows(matrix: &mut [Vec<f64>]) -> Vec<Vec<f64>> {
    let row = |i| (0..matrix.len()).map(|j| f64::from(i == j)).collect();
    let mut vectors: Vec<Vec<f64>> = (0..matrix.len()).map(row).collect();
    rotate(matrix, &mut vectors);
    vectors
}

#[inline(always)]
fn rotate<R: AsRef<[f64]> + AsMut<[f64]>>(matrix: &mut [R], vectors: &mut [R]) {
    let n = matrix.len();
    for _ in 0..SWEEPS {
        for p in 0..n {
            for q in p + 1..n {
                let entry = |i: usize, j: usize| matrix[i].as_ref()[j];
                let (off, first, second) = (entry(p, q), entry(p, p), entry(q, q));
                if off * off <= f64::EPSILON * f64::EPSILON * first * second {
                    continue;
                }
                // The smaller of the two rotations that make the entry zero.
                let theta = (second - first) / (2.0 * off);
                let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = (tangent * tangent + 1.0).sqrt().recip();
                let s = tangent * c;
                let turn = |a: &mut f64, b: &mut f64| (*a, *b) = (c * *a - s * *b, s * *a + c * *b);
                for row in matrix.iter_mut().chain(vectors.iter_mut()) {
                    let (a, b) = row.as_mut().split_at_mut(q);
                    turn(&mut a[p], &mut b[0]);
                }
                let (a, b) = matrix.split_at_mut(q);
                let pairs = a[p].as_mut().iter_mut().zip(b[0].as_mut());
                pairs.for_each(|(a, b)| turn(a, b));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: usize = 8;

    #[test]
    fn eigenvalues_and_vectors_make_the_matrix_again() {
        // A product with its own transpose of rank 5.
        let x = |i: usize, k: usize| ((i * 7 + k * 13 + i * i * k) % 17) as f64 - 8.0;
        let entry = |i: usize, j: usize| (0..5).map(|k| x(i, k) * x(j, k)).sum::<f64>();
        let mut matrix: [[f64; N]; N] =
            std::array::from_fn(|i| std::array::from_fn(|j| entry(i, j)));
        let before = matrix;
        let vectors = diagonalise(&mut matrix);
        for i in 0..N {
            for j in 0..N {
                let of = |f: &dyn Fn(usize) -> f64| (0..N).map(f).sum::<f64>();
                let product = of(&|k| vectors[k][i] * vectors[k][j]);
                assert!((product - f64::from(i == j)).abs() < 1e-12);
                let back = of(&|k| vectors[i][k] * matrix[k][k] * vectors[j][k]);
                assert!((back - before[i][j]).abs() < 1e-10, "{back} {}", before[i][j]);
            }
        }
    }

    #[test]
    fn nothing_has_eigenvalues_of_nothing() {
        let mut matrix = [[0.0; N]; N];
        assert!(diagonalise(&mut matrix).iter().enumerate().all(|(i, row)| row[i] == 1.0));
        assert_eq!(matrix, [[0.0; N]; N]);
    }
}
