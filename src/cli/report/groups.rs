//! A variant's tensors by kind, by layer, and by both: what the drawings draw.

use std::collections::{HashMap, HashSet};

use delta_stream::TensorSummary;

use crate::cli::report::names::{Layer, Place};

/// Layers drawn side by side; of more, neighbours are drawn as one.
pub(super) const MAX_COLUMNS: usize = 96;

/// Some tensors together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sums {
    pub(super) tensors: u64,
    pub(super) elements: u64,
    /// Bytes in the checkpoint.
    pub(super) bytes: u64,
    /// Bytes in the archive.
    pub(super) stored: u64,
    /// Of these, of tensors stored with loss.
    pub(super) stored_lossy: u64,
    /// Elements of tensors that have an error, and the sum of the errors weighed by them.
    with_error: u64,
    error: f64,
}

impl Sums {
    fn add(&mut self, tensor: &TensorSummary) {
        let elements = elements(tensor);
        self.tensors += 1;
        self.elements = self.elements.saturating_add(elements);
        self.bytes = self.bytes.saturating_add(tensor.bytes);
        self.stored = self.stored.saturating_add(tensor.stored_bytes);
        if is_lossy(tensor) {
            self.stored_lossy = self.stored_lossy.saturating_add(tensor.stored_bytes);
        }
        if let Some(error) = tensor.relative_error.filter(|e| e.is_finite()) {
            self.with_error = self.with_error.saturating_add(elements);
            self.error += error * elements as f64;
        }
    }

    /// Both together.
    pub(super) fn and(mut self, other: &Self) -> Self {
        self.tensors += other.tensors;
        self.elements = self.elements.saturating_add(other.elements);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.stored = self.stored.saturating_add(other.stored);
        self.stored_lossy = self.stored_lossy.saturating_add(other.stored_lossy);
        self.with_error = self.with_error.saturating_add(other.with_error);
        self.error += other.error;
        self
    }

    /// Stored bits an element; none without elements.
    pub(super) fn bits(&self) -> Option<f64> {
        (self.elements > 0).then(|| self.stored as f64 * 8.0 / self.elements as f64)
    }

    /// Mean relative error of the tensors that have one, weighed by their elements.
    pub(super) fn error(&self) -> Option<f64> {
        (self.with_error > 0).then(|| self.error / self.with_error as f64)
    }
}

/// Elements of a tensor, as its shape says.
pub(super) fn elements(tensor: &TensorSummary) -> u64 {
    tensor.shape.iter().fold(1, |n, side| n.saturating_mul(*side))
}

pub(super) fn is_lossy(tensor: &TensorSummary) -> bool {
    tensor.stored_as == "lossy"
}

/// One or several neighbouring layers of a stack.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) stack: String,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) sums: Sums,
    /// By position in [`Groups::kinds`].
    pub(super) cells: HashMap<usize, Sums>,
}

impl Column {
    /// As a label: the number, or the first and the last.
    pub(super) fn label(&self) -> String {
        if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}–{}", self.first, self.last)
        }
    }
}

/// A kind of tensor.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) name: String,
    /// Whether tensors of this kind stand in layers.
    pub(super) in_layers: bool,
    pub(super) sums: Sums,
}

/// The tensors of one variant, grouped.
#[derive(Debug)]
pub(super) struct Groups {
    /// Most stored bytes first.
    pub(super) kinds: Vec<Kind>,
    /// Stacks in order of their first tensor, layers in order of their numbers.
    pub(super) columns: Vec<Column>,
    /// What stands in no layer.
    pub(super) outside: Sums,
    /// For each tensor the position of its kind.
    pub(super) kind_of: Vec<usize>,
    /// How many layers a column has.
    pub(super) layers_each: usize,
}

impl Groups {
    /// Groups these tensors by their names.
    pub(super) fn new(tensors: &[TensorSummary]) -> Self {
        let places: Vec<Place> = tensors.iter().map(|t| Place::of(&t.name)).collect();
        let (kinds, kind_of) = kinds(tensors, &places);
        let layers = layers(&places);
        let layers_each = layers.len().div_ceil(MAX_COLUMNS).max(1);
        let (mut columns, column_of) = columns(&layers, layers_each);
        let mut outside = Sums::default();
        for ((tensor, place), kind) in tensors.iter().zip(&places).zip(&kind_of) {
            let column = place.layer.as_ref().and_then(|layer| column_of.get(layer));
            match column.and_then(|at| columns.get_mut(*at)) {
                Some(column) => {
                    column.sums.add(tensor);
                    column.cells.entry(*kind).or_default().add(tensor);
                }
                None => outside.add(tensor),
            }
        }
        Self { kinds, columns, outside, kind_of, layers_each }
    }
}

/// The kinds, and which one each tensor has.
fn kinds(tensors: &[TensorSummary], places: &[Place]) -> (Vec<Kind>, Vec<usize>) {
    let mut found: Vec<Kind> = Vec::new();
    let mut positions: HashMap<(&str, bool), usize> = HashMap::new();
    let mut kind_of = Vec::with_capacity(tensors.len());
    for (tensor, place) in tensors.iter().zip(places) {
        let in_layers = place.layer.is_some();
        let at = *positions.entry((&place.kind, in_layers)).or_insert_with(|| {
            let (name, sums) = (place.kind.clone(), Sums::default());
            found.push(Kind { name, in_layers, sums });
            found.len() - 1
        });
        found[at].sums.add(tensor);
        kind_of.push(at);
    }
    // A stable sort, so that kinds of equal size stay in the order of the file.
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(found[*i].sums.stored));
    let mut new_place = vec![0; order.len()];
    order.iter().enumerate().for_each(|(to, from)| new_place[*from] = to);
    let mut sorted: Vec<(usize, Kind)> =
        found.into_iter().enumerate().map(|(i, kind)| (new_place[i], kind)).collect();
    sorted.sort_by_key(|(to, _)| *to);
    let kinds = sorted.into_iter().map(|(_, kind)| kind).collect();
    (kinds, kind_of.into_iter().map(|at: usize| new_place[at]).collect())
}

/// All layers, stack by stack.
fn layers(places: &[Place]) -> Vec<Layer> {
    let mut found: Vec<(usize, &Layer)> = Vec::new();
    let mut seen: HashSet<&Layer> = HashSet::new();
    let mut stack_at: HashMap<&str, usize> = HashMap::new();
    for layer in places.iter().filter_map(|p| p.layer.as_ref()) {
        let next = stack_at.len();
        let stack = *stack_at.entry(&layer.stack).or_insert(next);
        if seen.insert(layer) {
            found.push((stack, layer));
        }
    }
    found.sort_by_key(|(stack, layer)| (*stack, layer.index));
    found.into_iter().map(|(_, layer)| layer.clone()).collect()
}

/// Columns of up to so many layers, and in which one each layer is. A column ends with its stack, but where
/// there are more stacks than columns.
fn columns(layers: &[Layer], each: usize) -> (Vec<Column>, HashMap<&Layer, usize>) {
    let mut columns: Vec<(Column, usize)> = Vec::new();
    let mut column_of = HashMap::new();
    for layer in layers {
        let is_full = columns.len() >= 2 * MAX_COLUMNS;
        let fits =
            |(column, n): &(Column, usize)| is_full || (column.stack == layer.stack && *n < each);
        match columns.last_mut().filter(|last| fits(last)) {
            Some((column, n)) => {
                column.last = layer.index;
                *n += 1;
            }
            None => {
                let (first, last, sums) = (layer.index, layer.index, Sums::default());
                let (stack, cells) = (layer.stack.clone(), HashMap::new());
                columns.push((Column { stack, first, last, sums, cells }, 1));
            }
        }
        column_of.insert(layer, columns.len() - 1);
    }
    (columns.into_iter().map(|(column, _)| column).collect(), column_of)
}
