//! Symmetric tridiagonal matrices: full ones reduced to them, and the rules of integration, or
//! eigenvalues, that they stand for. Plain loops in f64, the same on every machine.

vectorised! {
    /// Diagonal and off-diagonal (one shorter) of a tridiagonal matrix with the eigenvalues of the
    /// symmetric `matrix` of `n` rows, all of it given, which is overwritten (Householder, 1958).
    pub fn tridiagonalise(matrix: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>) = tridiagonalise_body;
}

#[inline(always)]
fn tridiagonalise_body(matrix: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut diagonal, mut off) = (Vec::with_capacity(n), Vec::with_capacity(n));
    let (mut v, mut w) = (vec![0.0; n], vec![0.0; n]);
    // Entries this small beside the greatest are rounding. Their squares could come to nothing.
    let least = f64::EPSILON * matrix.iter().fold(0.0f64, |a, x| a.max(x.abs()));
    for k in 0..n {
        diagonal.push(matrix[k * n + k]);
        let (from, rest) = (k + 1, n - k - 1);
        if rest == 0 {
            break;
        }
        let (v, w) = (&mut v[..rest], &mut w[..rest]);
        v.copy_from_slice(&matrix[k * n + from..(k + 1) * n]);
        let beyond: f64 = v[1..].iter().map(|x| x * x).sum();
        if beyond <= least * least {
            off.push(v[0]);
            continue;
        }
        // The mirror that sends v to a multiple of its first axis, away from v itself.
        let length = -(v[0] * v[0] + beyond).sqrt().copysign(v[0]);
        off.push(length);
        v[0] -= length;
        let factor = 2.0 / (v[0] * v[0] + beyond);
        w.fill(0.0);
        for (i, &x) in v.iter().enumerate() {
            let row = &matrix[(from + i) * n + from..(from + i + 1) * n];
            w.iter_mut().zip(row).for_each(|(w, a)| *w += factor * x * a);
        }
        let share: f64 = w.iter().zip(&*v).map(|(a, b)| a * b).sum::<f64>() * factor / 2.0;
        w.iter_mut().zip(&*v).for_each(|(w, x)| *w -= share * x);
        for i in 0..rest {
            let row = &mut matrix[(from + i) * n + from..(from + i + 1) * n];
            let (x, y) = (v[i], w[i]);
            for ((a, v), w) in row.iter_mut().zip(&*v).zip(&*w) {
                *a -= x * w + y * v;
            }
        }
    }
    (diagonal, off)
}

/// Nodes (at least 0) and weights of the rule that a symmetric tridiagonal matrix stands for: its
/// eigenvalues, in no order, and the squares of its eigenvectors' first entries (Golub and Welsch,
/// 1969), by the implicit QL method. `off` is one shorter than `diagonal`.
pub fn gauss_rule(diagonal: &[f64], off: &[f64]) -> Vec<(f64, f64)> {
    let n = diagonal.len();
    if n == 0 {
        return Vec::new();
    }
    let (mut d, mut e, mut first) = (diagonal.to_vec(), vec![0.0; n], vec![0.0; n]);
    e.iter_mut().zip(off).for_each(|(e, x)| *e = *x);
    first[0] = 1.0;
    let greatest = d.iter().chain(&e).fold(0.0f64, |a, x| a.max(x.abs()));
    let least = f64::EPSILON * f64::EPSILON * greatest;
    // Two rounds an eigenvalue are usual; the bound is for the sake of having one.
    for low in 0..n {
        for _ in 0..60 {
            let beside = |i: usize| f64::EPSILON * (d[i].abs() + d[i + 1].abs());
            let small = |i: &usize| e[*i].abs() <= beside(*i).max(least);
            let high = (low..n - 1).find(small).unwrap_or(n - 1);
            if high == low {
                break;
            }
            ql_round(&mut d, &mut e, &mut first, low, high);
        }
    }
    d.iter().zip(&first).map(|(x, z)| (x.max(0.0), z * z)).collect()
}

/// One round of the implicit QL method on rows `low..=high`.
fn ql_round(d: &mut [f64], e: &mut [f64], first: &mut [f64], low: usize, high: usize) {
    let length = |a: f64, b: f64| (a * a + b * b).sqrt();
    let half = (d[low + 1] - d[low]) / (2.0 * e[low]);
    let mut g = d[high] - d[low] + e[low] / (half + length(half, 1.0).copysign(half));
    let (mut sine, mut cosine, mut shift) = (1.0, 1.0, 0.0);
    for i in (low..high).rev() {
        let (f, b) = (sine * e[i], cosine * e[i]);
        let r = length(f, g);
        e[i + 1] = r;
        if r == 0.0 {
            d[i + 1] -= shift;
            e[high] = 0.0;
            return;
        }
        (sine, cosine) = (f / r, g / r);
        g = d[i + 1] - shift;
        let r = (d[i] - g) * sine + 2.0 * cosine * b;
        shift = sine * r;
        d[i + 1] = g + shift;
        g = cosine * r - b;
        let (z0, z1) = (first[i], first[i + 1]);
        first[i + 1] = sine * z0 + cosine * z1;
        first[i] = cosine * z0 - sine * z1;
    }
    d[low] -= shift;
    e[low] = g;
    e[high] = 0.0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::both_ways;

    #[test]
    fn the_rule_of_legendre() {
        // Golub and Welsch's own example, moved to the interval 0..2: its nodes are not negative.
        let off: Vec<f64> =
            (1..5).map(|i| f64::from(i) / f64::from(4 * i * i - 1).sqrt()).collect();
        let mut rule = gauss_rule(&[1.0; 5], &off);
        rule.sort_by(|a, b| a.0.total_cmp(&b.0));
        let known = [
            (0.906_179_845_938_664, 0.236_926_885_056_189),
            (0.538_469_310_105_683, 0.478_628_670_499_366),
        ];
        for (i, (x, w)) in known.into_iter().enumerate() {
            assert!(
                (rule[i].0 - (1.0 - x)).abs() < 1e-14 && (rule[4 - i].0 - (1.0 + x)).abs() < 1e-14
            );
            assert!((rule[i].1 - w / 2.0).abs() < 1e-14 && (rule[4 - i].1 - w / 2.0).abs() < 1e-14);
        }
        assert_eq!(gauss_rule(&[3.0], &[]), [(3.0, 1.0)]);
        assert_eq!(gauss_rule(&[], &[]), []);
    }

    #[test]
    fn reduction_keeps_the_eigenvalues() {
        // A mirror of the axes in a random plane, applied to a diagonal.
        let n = 40;
        let v: Vec<f64> = (0..n).map(|i| (i as f64 * 1.7).sin()).collect();
        let square: f64 = v.iter().map(|x| x * x).sum();
        let mirror = |i: usize, j: usize| f64::from(u8::from(i == j)) - 2.0 * v[i] * v[j] / square;
        let mut matrix = vec![0.0; n * n];
        for (at, a) in matrix.iter_mut().enumerate() {
            let (i, j) = (at / n, at % n);
            // Each eigenvalue twice.
            *a = (0..n).map(|k| mirror(i, k) * ((k / 2) as f64) * mirror(j, k)).sum();
        }
        let ((diagonal, off), plain) = both_ways(|| tridiagonalise(&mut matrix.clone(), n));
        assert_eq!((&diagonal, &off), (&plain.0, &plain.1));
        let mut found: Vec<f64> = gauss_rule(&diagonal, &off).iter().map(|x| x.0).collect();
        found.sort_by(f64::total_cmp);
        for (k, x) in found.iter().enumerate() {
            assert!((x - (k / 2) as f64).abs() < 1e-12, "{k}: {x}");
        }
        // Of rank one, where rounding errors of rounding errors are left.
        let ones: Vec<f64> = (0..n * n).map(|at| v[at / n % 3] * v[at % n % 3]).collect();
        let (diagonal, off) = tridiagonalise(&mut ones.clone(), n);
        let trace: f64 = (0..n).map(|i| ones[i * n + i]).sum();
        let mut found: Vec<f64> = gauss_rule(&diagonal, &off).iter().map(|x| x.0).collect();
        found.sort_by(f64::total_cmp);
        assert!((found[n - 1] - trace).abs() < 1e-12 && found[n - 2] < 1e-12, "{found:?}");
        let (diagonal, off) = tridiagonalise(&mut [2.0, 0.0, 0.0, 3.0], 2);
        assert_eq!((diagonal, off), (vec![2.0, 3.0], vec![0.0]));
        assert_eq!(tridiagonalise(&mut [], 0), (vec![], vec![]));
    }
}
