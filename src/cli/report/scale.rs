//! From a value to its place on an axis.

/// Above this quotient of the largest value and the smallest an axis is logarithmic.
const WIDE: f64 = 30.0;
/// About so many ticks on an axis.
const TICKS: f64 = 5.0;

/// An axis from `low` to `high`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    is_log: bool,
    /// Between ticks, where it is not logarithmic.
    step: f64,
}

impl Scale {
    /// An axis with room for these values, of which infinite ones are passed over; none if there are none.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let (low, high) = ends(values)?;
        if low > 0.0 && high / low > WIDE {
            return Some(Self::log(low, high));
        }
        let step = nice(high.max(low + f64::MIN_POSITIVE) - low.min(0.0));
        // An axis that may begin at zero does.
        let low = if low >= 0.0 && low < high * 0.6 { 0.0 } else { (low / step).floor() * step };
        let high = (high / step).ceil() * step;
        let high = if high > low { high } else { low + step };
        Some(Self { low, high, is_log: false, step })
    }

    /// An axis that ends at the smallest and the largest of these values, for colours.
    pub(super) fn of_range(values: impl Iterator<Item = f64>) -> Option<Self> {
        let ends = ends(values)?;
        let (low, high) =
            if ends.1 > ends.0 { ends } else { (ends.0, ends.0 + ends.0.abs().max(1e-12)) };
        let is_log = low > 0.0 && high / low > WIDE;
        Some(Self { low, high, is_log, step: high - low })
    }

    /// From zero to at least `high`, which is not negative.
    pub(super) fn up_to(high: f64) -> Self {
        let high = if high > 0.0 && high.is_finite() { high } else { 1.0 };
        let step = nice(high);
        Self { low: 0.0, high: (high / step).ceil() * step, is_log: false, step }
    }

    /// From zero to at least so many bytes, with ticks that are round as people read bytes.
    pub(super) fn of_bytes(most: u64) -> Self {
        let power = most.checked_ilog2().unwrap_or(0) / 10 * 10;
        let unit = 2f64.powi(power as i32);
        let Self { high, step, .. } = Self::up_to((most as f64 / unit).max(1.0));
        Self { low: 0.0, high: high * unit, is_log: false, step: step * unit }
    }

    /// A logarithmic one, between powers of ten; both ends are above zero.
    pub(super) fn log(low: f64, high: f64) -> Self {
        let (low, high) = (low.log10().floor(), high.log10().ceil());
        let high = if high > low { high } else { low + 1.0 };
        Self { low: 10f64.powf(low), high: 10f64.powf(high), is_log: true, step: 1.0 }
    }

    /// Place of a value: 0 at the low end, 1 at the high one, never outside.
    pub(super) fn at(&self, value: f64) -> f64 {
        let place = if self.is_log {
            (value.max(self.low).log10() - self.low.log10())
                / (self.high.log10() - self.low.log10())
        } else {
            (value - self.low) / (self.high - self.low)
        };
        if place.is_nan() { 0.0 } else { place.clamp(0.0, 1.0) }
    }

    /// The value at a place.
    pub(super) fn value(&self, place: f64) -> f64 {
        if self.is_log {
            self.low * (self.high / self.low).powf(place)
        } else {
            self.low + (self.high - self.low) * place
        }
    }

    /// Which of `n` equal parts of the axis a value falls in.
    pub(super) fn class(&self, value: f64, n: usize) -> usize {
        ((self.at(value) * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// Round values along the axis, ascending.
    pub(super) fn ticks(&self) -> Vec<f64> {
        if self.is_log {
            let (first, last) = (self.low.log10().ceil() as i32, self.high.log10().floor() as i32);
            let every = ((last - first) / 6).max(1) as usize;
            return (first..=last).step_by(every).map(|power| 10f64.powi(power)).collect();
        }
        let step = self.step;
        let (first, last) = ((self.low / step).round() as i64, (self.high / step).round() as i64);
        (first..=last.min(first + 20)).map(|i| i as f64 * step).collect()
    }
}

/// The smallest and the largest finite value.
fn ends(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|v| v.is_finite()).fold(None, |ends, v| match ends {
        None => Some((v, v)),
        Some((low, high)) => Some((v.min(low), v.max(high))),
    })
}

/// A round step that cuts so long an axis into a few parts.
fn nice(length: f64) -> f64 {
    let rough = length / TICKS;
    if !(rough.is_finite() && rough > 1e-300) {
        return 1.0;
    }
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= rough * 0.999);
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_room_for_their_values() {
        for values in [
            vec![0.1, 0.9],
            vec![3.0],
            vec![0.0],
            vec![1e-7, 4.0],
            vec![0.19, 0.21],
            vec![-2.0, 5.0],
        ] {
            let scale = Scale::of(values.iter().copied()).unwrap();
            for v in values {
                let at = scale.at(v);
                assert!((0.0..=1.0).contains(&at), "{v} at {at} of {scale:?}");
                assert!((scale.value(at) - v).abs() <= 1e-9 * v.abs().max(1.0), "{v} on {scale:?}");
            }
            let ticks = scale.ticks();
            assert!((2..=12).contains(&ticks.len()), "{ticks:?} on {scale:?}");
            assert!(ticks.windows(2).all(|w| w[0] < w[1]));
        }
        assert_eq!(Scale::of([f64::NAN, f64::INFINITY].into_iter()), None);
    }

    #[test]
    fn wide_ranges_are_logarithmic() {
        let scale = Scale::of([1e-4, 0.5].into_iter()).unwrap();
        assert!((scale.at(0.01) - 0.5).abs() < 1e-12);
        assert_eq!(scale.ticks().len(), 5);
        assert_eq!((scale.class(1e-4, 4), scale.class(1.0, 4), scale.class(0.0, 4)), (0, 3, 0));
    }

    #[test]
    fn strange_values_have_a_place_too() {
        for v in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, 0.0] {
            assert!((0.0..=1.0).contains(&Scale::up_to(7.0).at(v)));
            assert!((0.0..=1.0).contains(&Scale::up_to(v).at(v)));
        }
        assert_eq!(Scale::of_bytes(300 << 10).ticks(), [0.0, 102400.0, 204800.0, 307200.0]);
        assert!(
            Scale::of_bytes(u64::MAX).ticks().len() > 2 && Scale::of_bytes(0).ticks().len() > 1
        );
        assert_eq!(Scale::up_to(100.0).ticks(), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
    }
}
