//! An allocation that people can read and change: which rate each matrix is coded at.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::kernel::trellis::{BITS, N_RATES};
use crate::method::auto::allocate::RowRates;

/// An allocation of rates, as `plan` writes it and `--plan` takes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RatePlan {
    /// Mean square error of a weight that the directions of all matrices were chosen for: a finite number, 0 where
    /// no matrix has a delta.
    pub noise_level: f64,
    /// One for each matrix that is stored with loss, in any order.
    pub matrices: Vec<MatrixRate>,
}

/// The rate of one matrix.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MatrixRate {
    /// Its tensor.
    pub tensor: String,
    /// Its number in a stack of matrices.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub matrix: u64,
    /// Bits an entry: 1/32, 1/16, 1/8, 1/4, 1/2, or 0.80 to 5.05 in steps of a quarter; the nearest one is
    /// taken for any other number between.
    pub rate: String,
    /// If not all rows have this rate, how many from the top do; at most as many as the matrix has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// The rate of the other rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<String>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl RatePlan {
    /// Its noise level, which may have been edited.
    ///
    /// # Errors
    /// `InvalidArgument` if its noise level is no mean square.
    pub(crate) fn checked_level(&self) -> Result<f64> {
        let level = self.noise_level;
        if !level.is_finite() || level < 0.0 {
            return Err(Error::invalid_argument(format!(
                "plan: noise_level {level} is no finite number from 0 on; leave it as `plan` wrote it"
            )));
        }
        Ok(level)
    }
}

impl MatrixRate {
    pub(crate) fn new(tensor: &str, matrix: u64, rates: RowRates) -> Self {
        let split = rates.n_first > 0 && rates.first != rates.second;
        let rate = if rates.n_first > 0 { rates.first } else { rates.second };
        Self {
            tensor: tensor.to_owned(),
            matrix,
            rate: name(rate),
            rows: split.then_some(rates.n_first),
            rest: split.then(|| name(rates.second)),
        }
    }

    /// The rates that it names, of a matrix of `n_rows` rows.
    ///
    /// # Errors
    /// `InvalidArgument`, with the tensor's name, if they are none or are of another matrix.
    pub(crate) fn rates(&self, n_rows: u64) -> Result<RowRates> {
        let of = |text: &str| {
            nearest(text).ok_or_else(|| {
                Error::invalid_argument(format!(
                    "plan: tensor {}: rate `{text}` is no number of bits from {} to {}",
                    self.tensor,
                    name(0),
                    name(N_RATES - 1)
                ))
            })
        };
        let first = of(&self.rate)?;
        match (&self.rest, self.rows) {
            (Some(_), Some(rows)) if rows > n_rows => Err(Error::invalid_argument(format!(
                "plan: tensor {}: rows is {rows}, and a matrix of it has {n_rows} rows",
                self.tensor
            ))),
            (Some(rest), Some(rows)) => Ok(RowRates { first, second: of(rest)?, n_first: rows }),
            (None, None) => Ok(RowRates::uniform(first)),
            _ => Err(Error::invalid_argument(format!(
                "plan: tensor {}: rows and rest belong together",
                self.tensor
            ))),
        }
    }
}

/// A rate as people write it.
pub(crate) fn name(code: usize) -> String {
    // All below one bit are fractions of a power of two, or nearly a number of two digits.
    let bits = BITS[code];
    let of_one = bits.recip();
    if of_one.fract() == 0.0 { format!("1/{of_one}") } else { format!("{bits:.2}") }
}

/// The rate nearest to what people write: a fraction or a decimal number.
fn nearest(text: &str) -> Option<usize> {
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let bits = match text.split_once('/') {
        Some((above, below)) => number(above)? / number(below)?,
        None => number(text)?,
    };
    let distance = |code: &usize| (BITS[*code] - bits).abs();
    // Names are rounded.
    (BITS[0]..BITS[N_RATES - 1] + 0.005)
        .contains(&bits)
        .then(|| (0..N_RATES).min_by(|a, b| distance(a).total_cmp(&distance(b))))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_back_from_their_names() {
        for code in 0..N_RATES {
            let rates = RowRates::uniform(code);
            assert_eq!(MatrixRate::new("t", 3, rates).rates(9).unwrap(), rates);
        }
        let rates = RowRates { first: 6, second: 5, n_first: 12 };
        let plan = MatrixRate::new("t", 0, rates);
        assert_eq!((plan.rate.as_str(), plan.rest.as_deref()), ("1.05", Some("0.80")));
        assert_eq!(plan.rates(12).unwrap(), rates);
    }

    #[test]
    fn any_number_between_becomes_the_nearest_rate() {
        for (text, rate) in
            [("1/32", 0), (" 0.5", 4), ("1", 6), ("3/2", 8), ("5.05", 22), ("0.04", 0)]
        {
            assert_eq!(nearest(text), Some(rate), "{text}");
        }
    }

    #[test]
    fn a_bad_rate_names_its_tensor() {
        let bad = |rate: &str, rows, rest: Option<&str>| {
            let rest = rest.map(str::to_owned);
            let tensor = "a.weight".to_owned();
            MatrixRate { tensor, matrix: 0, rate: rate.to_owned(), rows, rest }.rates(8)
        };
        for found in [
            bad("0.03", None, None),
            bad("x", None, None),
            bad("1/0", None, None),
            bad("NaN", None, None),
            bad("1", Some(3), None),
            bad("1", Some(1), Some("6")),
            bad("1", Some(9), Some("2")),
        ] {
            assert!(found.unwrap_err().to_string().contains("a.weight"));
        }
        assert!(bad("1", Some(8), Some("2")).is_ok());
    }

    #[test]
    fn a_noise_level_is_a_mean_square() {
        let level = |noise_level| RatePlan { noise_level, matrices: Vec::new() }.checked_level();
        for good in [0.0, 1e-9, 3.0] {
            assert_eq!(level(good).unwrap().to_bits(), good.to_bits());
        }
        for bad in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(level(bad).unwrap_err().to_string().contains("noise_level"), "{bad}");
        }
    }
}
