//! Gathers what surveys find, tile by tile in order, and gives the merged plans to the reader.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam::channel::Sender;

use crate::error::Result;
use crate::method::{Decided, Joint, LossyMethod, MatrixPlan, Measured, RowRates, TraceNorms};
use crate::pair::Pair;
use crate::pipeline::encode::Run;
use crate::pipeline::schedule::{Block, Merged, Unit};
use crate::survey::TileStats;

/// What joint decisions say about the whole model.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) measured: Measured,
    /// Units with the rates they are coded at, where a method has such.
    pub(crate) rates: Vec<(usize, RowRates)>,
}

/// Merges the tiles of a pass into a plan, and the plans of all matrices where a method decides about
/// them together.
pub(crate) struct Merger<'a> {
    method: &'a dyn LossyMethod,
    units: &'a [Unit],
    pair: &'a Pair,
    /// What the archive holds already.
    earlier: &'a TraceNorms,
    /// The joint pass that the run ends with, undecided.
    undecided: Option<usize>,
    merged: Sender<Merged>,
    /// What the method has to say about the whole model.
    findings: &'a mut Findings,
    /// Tiles of the passes under way, by unit.
    stats: BTreeMap<usize, Vec<TileStats>>,
    /// Plans of matrices between two passes, by unit.
    plans: BTreeMap<usize, MatrixPlan>,
}

impl<'a> Merger<'a> {
    pub(crate) fn new(
        method: &'a dyn LossyMethod,
        run: &Run<'a>,
        pair: &'a Pair,
        merged: Sender<Merged>,
        findings: &'a mut Findings,
    ) -> Self {
        let (stats, plans) = (BTreeMap::new(), BTreeMap::new());
        let &Run { units, earlier, ends_with: undecided, .. } = run;
        Self { method, units, pair, earlier, undecided, merged, findings, stats, plans }
    }

    /// Adds one tile's result; after the last tile of a pass the plan goes to the reader, and after the
    /// last tile of a joint pass all plans do. Returns what then stands for all of the pass, if the method
    /// has such.
    ///
    /// # Errors
    /// What the method says of all matrices together.
    pub(crate) fn add(&mut self, block: Block, stats: TileStats) -> Result<Option<TileStats>> {
        let unit = &self.units[block.unit];
        let so_far = self.stats.entry(block.unit).or_default();
        so_far.push(stats);
        if (so_far.len() as u64) < unit.n_tiles() {
            return Ok(None);
        }
        let stats = self.stats.remove(&block.unit).unwrap_or_default();
        let before = self.plans.remove(&block.unit).unwrap_or_default();
        let exact = match block.pass {
            0 => stats.iter().map(|s| *s == TileStats::NonFinite).collect(),
            _ => before.exact,
        };
        let n_elements = self.n_elements(block.unit);
        let decided = self.method.merge(block.pass, &before.decided, n_elements, &stats);
        let whole = self.method.condensed(block.pass, &decided);
        self.plans.insert(block.unit, MatrixPlan { exact, decided });
        if !self.method.joint_passes().contains(&block.pass) {
            self.send(block.unit, block.pass);
        } else if self.is_last(block) && self.undecided != Some(block.pass) {
            self.decide_jointly(block.pass)?;
        }
        Ok(whole)
    }

    /// Whether no unit comes to this pass after this one.
    fn is_last(&self, block: Block) -> bool {
        !self.units[block.unit + 1..].iter().any(|u| u.n_surveys > block.pass)
    }

    fn decide_jointly(&mut self, pass: usize) -> Result<()> {
        let mut plans = std::mem::take(&mut self.plans);
        let mut joint: Vec<_> = plans
            .iter_mut()
            .map(|(unit, plan)| Joint {
                n_elements: self.n_elements(*unit),
                decided: &mut plan.decided,
            })
            .collect();
        let measured = self.method.decide_jointly(pass, self.earlier, &mut joint)?;
        self.findings.measured.extend(measured);
        let rates = plans.iter().filter_map(|(unit, plan)| match &plan.decided {
            Decided::Auto(plan) => Some((*unit, plan.rates)),
            _ => None,
        });
        self.findings.rates.extend(rates);
        self.plans = plans;
        for unit in self.plans.keys().copied().collect::<Vec<_>>() {
            self.send(unit, pass);
        }
        Ok(())
    }

    /// Gives a plan to the reader; it is kept here as long as another pass refines it.
    fn send(&mut self, unit: usize, pass: usize) {
        let passes = pass + 1;
        let more = passes < self.units[unit].n_surveys;
        let plan = if more { self.plans.get(&unit).cloned() } else { self.plans.remove(&unit) };
        // A reader that is gone has failed, which the run will say.
        let _ = self.merged.send((unit, passes, Arc::new(plan.unwrap_or_default())));
    }

    fn n_elements(&self, unit: usize) -> u64 {
        let unit = &self.units[unit];
        let tiling = &self.pair.items[unit.tensor].tiling;
        unit.tiles.clone().map(|i| tiling.get(i).n_elements() as u64).sum()
    }
}
