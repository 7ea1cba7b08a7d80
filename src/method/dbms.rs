//! DBMS, dynamic base model shift (arXiv 2505.11344): the base is shifted along a compressed base
//! vector before the delta is taken, and the compressed delta gets one overall scale:
//!
//! `restored = base + lambda * vector + eta * C(fine-tune - base - lambda * vector)`
//!
//! Wraps any method with loss, C. What is certain of the paper is that framework and that two
//! parameters are learnt at low cost; the rest is METHODS sections 2.3 to 2.6, with one change that
//! EVIDENCE gives the reason for: eta is by default the one that keeps the delta's length, not the one
//! of least squared error.
//!
//! Here are the settings and the search. A search without data encodes a sample of tiles up to twenty
//! times, one by scores then the whole model up to 32 times; then the model is encoded once, and before
//! all that once for a base vector that is not there yet.

use std::cell::Cell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::method::out_of_range;

/// Ranges of both parameters (METHODS section 2.5).
const MAX_LAMBDA: f64 = 1.5;
const MAX_ETA: f64 = 2.0;
/// Points of the grid over lambda, and steps of golden section between the best one's neighbours.
const GRID: usize = 11;
const GOLDEN_STEPS: usize = 8;
/// Inverse of the golden ratio.
const GOLDEN: f64 = 0.618_033_988_749_894_9;
/// Most evaluations of a command, and the spread of parameters at which its search ends.
const MAX_TRIALS: usize = 32;
const FINE_ENOUGH: f64 = 0.005;

/// What a base is shifted along. A vector that the archive has under the same name is used as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum BaseVector {
    /// The fine-tune's own delta: a first stage, against which a second one codes what is left.
    Own,
    /// The mean of the archive's variants, stored once for all that use it. The first fine-tune that
    /// asks for it makes it, from those that are there and itself.
    Shared,
    /// The delta of another checkpoint, which a restore does not need. Named after the last component
    /// of its path.
    External(PathBuf),
}

/// How eta follows from a compressed delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum EtaRule {
    /// `<D, D> / <D, C(D)>`: the delta's own direction keeps its length. Default.
    #[default]
    Unbiased,
    /// `<D, C(D)> / <C(D), C(D)>`: the least squared error, which shrinks what is coded coarsely.
    LeastSquares,
}

type ScoreOf = dyn Fn(&Path) -> Result<f64> + Send + Sync;

/// Scores a restored checkpoint, the lower the better.
#[derive(Clone)]
pub struct Score(Arc<ScoreOf>);

impl Score {
    /// A score from a function of the checkpoint's directory.
    pub fn new(score: impl Fn(&Path) -> Result<f64> + Send + Sync + 'static) -> Self {
        Self(Arc::new(score))
    }

    pub(crate) fn of(&self, dir: &Path) -> Result<f64> {
        (self.0)(dir)
    }
}

impl fmt::Debug for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Score")
    }
}

/// How parameters that are not given are found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Tune {
    /// From the weights of a sample of tiles. Default.
    #[default]
    DataFree,
    /// By scores of whole restored checkpoints, beginning where the data-free search ends.
    Score(Score),
}

/// Settings of a base shift.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BaseShift {
    /// What the base is shifted along.
    pub vector: BaseVector,
    /// How far, 0 to 1.5; `None` to be found.
    pub lambda: Option<f64>,
    /// What the compressed delta is multiplied by, 0 to 2; `None` to be found.
    pub eta: Option<f64>,
    /// How eta follows without data.
    pub rule: EtaRule,
    /// How they are found.
    pub tune: Tune,
}

impl BaseShift {
    /// A shift along `vector` with both parameters to be found without data.
    pub fn new(vector: BaseVector) -> Self {
        let (rule, tune) = (EtaRule::default(), Tune::default());
        Self { vector, lambda: None, eta: None, rule, tune }
    }

    /// Gives parameters; `None` to be found.
    #[must_use]
    pub fn with_parameters(mut self, lambda: Option<f64>, eta: Option<f64>) -> Self {
        (self.lambda, self.eta) = (lambda, eta);
        self
    }

    /// Sets how eta follows without data.
    #[must_use]
    pub fn with_rule(mut self, rule: EtaRule) -> Self {
        self.rule = rule;
        self
    }

    /// Sets how parameters are found.
    #[must_use]
    pub fn with_tune(mut self, tune: Tune) -> Self {
        self.tune = tune;
        self
    }

    /// Whether a base vector is made, unless the archive has it.
    pub(crate) fn has_vector(&self) -> bool {
        self.lambda != Some(0.0)
    }

    /// How often a sample of tiles is encoded to find what is not given.
    pub(crate) fn n_trials(&self) -> usize {
        match (self.lambda, self.eta) {
            (Some(_), Some(_)) => 0,
            (Some(_), None) => 1,
            (None, _) => GRID + GOLDEN_STEPS + 1,
        }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        for (name, given, most, range) in
            [("lambda", self.lambda, MAX_LAMBDA, "0 to 1.5"), ("eta", self.eta, MAX_ETA, "0 to 2")]
        {
            if let Some(x) = given.filter(|x| !(0.0..=most).contains(x)) {
                return Err(out_of_range(name, x, range));
            }
        }
        Ok(())
    }

    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        let vector = match &self.vector {
            BaseVector::Own => "own".to_owned(),
            BaseVector::Shared => "shared".to_owned(),
            BaseVector::External(path) => path.display().to_string(),
        };
        let rule = match self.rule {
            EtaRule::Unbiased => "unbiased",
            EtaRule::LeastSquares => "least-squares",
        };
        let tune = match (self.lambda, self.eta, &self.tune) {
            (Some(_), Some(_), _) => "given",
            (.., Tune::DataFree) => "data-free",
            (.., Tune::Score(_)) => "command",
        };
        let mut settings = vec![("base-shift".into(), vector), ("tune".into(), tune.into())];
        if self.eta.is_none() {
            settings.push(("eta-rule".into(), rule.into()));
        }
        settings
    }
}

/// Sums of squares over what was encoded: of the delta, of what it decodes to, of the difference.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Fit {
    pub(crate) delta: f64,
    pub(crate) decoded: f64,
    pub(crate) error: f64,
}

impl Fit {
    /// The three sums, for a run that may be cut off.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        [self.delta, self.decoded, self.error].map(f64::to_le_bytes).concat()
    }

    /// What [`Self::to_bytes`] wrote.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (sums, []) = bytes.as_chunks::<8>() else { return None };
        let &[delta, decoded, error] = <&[_; 3]>::try_from(sums).ok()?;
        let [delta, decoded, error] = [delta, decoded, error].map(f64::from_le_bytes);
        Some(Self { delta, decoded, error })
    }

    pub(crate) fn add(&mut self, other: Fit) {
        self.delta += other.delta;
        self.decoded += other.decoded;
        self.error += other.error;
    }

    /// Inner product of the delta with what it decodes to.
    fn along(&self) -> f64 {
        (self.delta + self.decoded - self.error) / 2.0
    }

    /// The overall scale a rule leads to, within its range; 1 where nothing was decoded, or what was
    /// overflowed.
    pub(crate) fn eta(&self, rule: EtaRule) -> f64 {
        let (over, under) = match rule {
            EtaRule::Unbiased => (self.delta, self.along()),
            EtaRule::LeastSquares => (self.along(), self.decoded),
        };
        let eta = over / under;
        if under > 0.0 && eta.is_finite() { eta.clamp(0.0, MAX_ETA) } else { 1.0 }
    }

    /// The squared error with an overall scale.
    pub(crate) fn objective(&self, eta: f64) -> f64 {
        self.delta - 2.0 * eta * self.along() + eta * eta * self.decoded
    }
}

/// The lambda of the least objective: a grid, then golden section between the neighbours of its best
/// point (METHODS section 2.6).
pub(crate) fn search_lambda(mut objective: impl FnMut(f64) -> Result<f64>) -> Result<f64> {
    let mut best = (f64::INFINITY, 0.0);
    let mut at = |lambda: f64| {
        let value = objective(lambda)?;
        if value < best.0 {
            best = (value, lambda);
        }
        Ok(value)
    };
    let point = |i: usize| MAX_LAMBDA * i as f64 / (GRID - 1) as f64;
    let (mut least, mut best_point) = (f64::INFINITY, 0);
    for i in 0..GRID {
        let value = at(point(i))?;
        if value < least {
            (least, best_point) = (value, i);
        }
    }
    let mut low = point(best_point.saturating_sub(1));
    let mut high = point((best_point + 1).min(GRID - 1));
    let mut left = high - GOLDEN * (high - low);
    let mut right = low + GOLDEN * (high - low);
    let (mut at_left, mut at_right) = (at(left)?, at(right)?);
    for _ in 2..GOLDEN_STEPS {
        if at_left < at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - GOLDEN * (high - low);
            at_left = at(left)?;
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + GOLDEN * (high - low);
            at_right = at(right)?;
        }
    }
    Ok(best.1)
}

/// A point of the search by scores: lambda and eta.
pub(crate) type Point = [f64; 2];

/// The parameters of the least score: Nelder and Mead's simplex, beginning at `start`, in at most 32
/// evaluations. A parameter that is given stays.
pub(crate) fn search_scores(
    start: Point,
    given: [bool; 2],
    mut score: impl FnMut(Point) -> Result<f64>,
) -> Result<Point> {
    let bounds = [MAX_LAMBDA, MAX_ETA];
    let free: Vec<usize> = (0..2).filter(|i| !given[*i]).collect();
    let trials = Cell::new(0);
    let mut at = |mut point: Point| {
        for i in 0..2 {
            point[i] = if given[i] { start[i] } else { point[i].clamp(0.0, bounds[i]) };
        }
        trials.set(trials.get() + 1);
        Ok::<_, Error>((score(point)?, point))
    };
    let mut simplex = vec![at(start)?];
    for i in &free {
        let mut point = start;
        point[*i] += if point[*i] > 0.8 * bounds[*i] { -0.2 } else { 0.2 };
        simplex.push(at(point)?);
    }
    let n = free.len();
    if n == 0 {
        return Ok(start);
    }
    loop {
        simplex.sort_by(|a, b| a.0.total_cmp(&b.0));
        let size = |i: &usize| (simplex[n].1[*i] - simplex[0].1[*i]).abs();
        // A step takes two evaluations, and one more for each free parameter if it has to shrink.
        if trials.get() + 2 + n > MAX_TRIALS
            || free.iter().map(size).fold(0.0, f64::max) < FINE_ENOUGH
        {
            break;
        }
        let center = |i: usize| simplex[..n].iter().map(|s| s.1[i]).sum::<f64>() / n as f64;
        let center = [center(0), center(1)];
        let worst = simplex[n];
        let along = |t: f64| [0, 1].map(|i| center[i] + t * (worst.1[i] - center[i]));
        let reflected = at(along(-1.0))?;
        let replaced = if reflected.0 < simplex[0].0 {
            let expanded = at(along(-2.0))?;
            if expanded.0 < reflected.0 { expanded } else { reflected }
        } else if reflected.0 < simplex[n - 1].0 {
            reflected
        } else {
            let towards = if reflected.0 < worst.0 { -0.5 } else { 0.5 };
            at(along(towards))?
        };
        if replaced.0 < worst.0 {
            simplex[n] = replaced;
            continue;
        }
        let best = simplex[0].1;
        for corner in &mut simplex[1..] {
            *corner = at([0, 1].map(|i| (corner.1[i] + best[i]) / 2.0))?;
        }
    }
    simplex.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(simplex[0].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_rules_are_the_closed_forms() {
        // D = (3, 4), C = (2, 2): <D,D> 25, <D,C> 14, <C,C> 8, |D - C|^2 5.
        let fit = Fit { delta: 25.0, decoded: 8.0, error: 5.0 };
        assert_eq!(fit.eta(EtaRule::Unbiased), 25.0 / 14.0);
        assert_eq!(fit.eta(EtaRule::LeastSquares), 14.0 / 8.0);
        assert_eq!(fit.objective(1.0), 5.0);
        assert_eq!(Fit::default().eta(EtaRule::Unbiased), 1.0);
        let overflowed = Fit { delta: 1.0, decoded: f64::INFINITY, error: f64::INFINITY };
        for rule in [EtaRule::Unbiased, EtaRule::LeastSquares] {
            assert_eq!(overflowed.eta(rule), 1.0);
        }
    }

    #[test]
    fn the_best_lambda_is_found_in_few_evaluations() {
        for wanted in [0.0, 0.37, 0.75, 1.5] {
            let mut n = 0;
            let found = search_lambda(|x| {
                n += 1;
                Ok((x - wanted) * (x - wanted))
            });
            assert!((found.unwrap() - wanted).abs() < 0.02, "{wanted}");
            assert_eq!(n, GRID + GOLDEN_STEPS);
        }
    }

    #[test]
    fn scores_are_followed_downhill_and_given_parameters_stay() {
        let bowl = |p: Point| Ok((p[0] - 0.6).powi(2) + 2.0 * (p[1] - 1.3).powi(2));
        let mut n = 0;
        let counted = |p| {
            n += 1;
            bowl(p)
        };
        let found = search_scores([1.0, 1.0], [false, false], counted).unwrap();
        assert!(bowl(found).unwrap() < 1e-3, "{found:?}");
        assert!(n <= MAX_TRIALS, "{n}");
        let found = search_scores([1.0, 1.0], [true, false], bowl).unwrap();
        assert!(found[0] == 1.0 && (found[1] - 1.3).abs() < 0.02, "{found:?}");
        assert_eq!(search_scores([0.2, 0.9], [true, true], bowl).unwrap(), [0.2, 0.9]);
    }

    #[test]
    fn parameters_outside_their_range_are_refused() {
        let shift = |lambda, eta| BaseShift::new(BaseVector::Own).with_parameters(lambda, eta);
        assert!(shift(Some(1.5), Some(2.0)).validate().is_ok());
        assert!(shift(Some(1.6), None).validate().is_err());
        assert!(shift(None, Some(f64::NAN)).validate().is_err());
    }
}
