//! An allocation that people can read and change: which rate each matrix is coded at.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::kernel::trellis::RATES;
use crate::method::auto::allocate::RowRates;

/// An allocation of rates, as `plan` writes it and `--plan` takes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RatePlan {
    /// Mean square error of a weight that the directions of all matrices were chosen for.
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
    /// Bits an entry: 1/32, 1/16, 1/8, 1/4, 1/2, 3/4, 1, 3/2, 2, 3 or 4.
    pub rate: String,
    /// If not all rows have this rate, how many from the top do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// The rate of the other rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<String>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
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

    pub(crate) fn rates(&self) -> Result<RowRates> {
        let of = |text: &str| {
            let found = (0..RATES.len()).find(|code| name(*code) == text.trim());
            found.ok_or_else(|| {
                let all: Vec<_> = (0..RATES.len()).map(name).collect();
                Error::invalid_argument(format!(
                    "plan: tensor {}: rate `{text}` is none of {}",
                    self.tensor,
                    all.join(", ")
                ))
            })
        };
        let first = of(&self.rate)?;
        match (&self.rest, self.rows) {
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
    match RATES[code] {
        (bits, 1) => bits.to_string(),
        (bits, width) => format!("{bits}/{width}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_back_from_their_names() {
        for code in 0..RATES.len() {
            let rates = RowRates::uniform(code);
            assert_eq!(MatrixRate::new("t", 3, rates).rates().unwrap(), rates);
        }
        let rates = RowRates { first: 6, second: 5, n_first: 12 };
        let plan = MatrixRate::new("t", 0, rates);
        assert_eq!((plan.rate.as_str(), plan.rest.as_deref()), ("1", Some("3/4")));
        assert_eq!(plan.rates().unwrap(), rates);
    }

    #[test]
    fn a_bad_rate_names_its_tensor() {
        let bad = |rate: &str, rows, rest: Option<&str>| {
            let rest = rest.map(str::to_owned);
            let tensor = "a.weight".to_owned();
            MatrixRate { tensor, matrix: 0, rate: rate.to_owned(), rows, rest }.rates()
        };
        for found in [bad("0.5", None, None), bad("1", Some(3), None), bad("1", Some(1), Some("5"))]
        {
            assert!(found.unwrap_err().to_string().contains("a.weight"));
        }
    }
}
