//! The base a variant is restored against: opened, and refused early if it is another.

use std::path::Path;

use crate::archive::{Origin, Stored};
use crate::checkpoint::{Checkpoint, Source, TensorInfo};
use crate::error::{Error, Result};
use crate::pipeline::identity::{base_bytes_used, base_probe};
use crate::pipeline::options::Resources;
use crate::tensor::DType;

/// The base of an archive, opened and probed.
pub(crate) struct Base {
    checkpoint: Checkpoint,
    source: Source,
}

impl Base {
    pub(crate) fn open(path: &Path, resources: &Resources) -> Result<Self> {
        let checkpoint = Checkpoint::open(&resources.locate(path)?)?;
        let source = Source::new(&checkpoint, &resources.map)?;
        Ok(Self { checkpoint, source })
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The base's tensor of this name, if it has one.
    fn tensor(&self, name: &str) -> Result<&TensorInfo> {
        let found = self.checkpoint.find(name).map(|(_, t)| t);
        found.ok_or_else(|| wrong_base(&self.checkpoint, &format!("it has no tensor {name}")))
    }

    /// Hash of the ends of what tensor `i` of a variant uses of the base; 0 if it uses nothing.
    ///
    /// # Errors
    /// `Mismatch` if the base has no such tensor.
    pub(crate) fn probe(&self, stored: &Stored, i: usize) -> Result<u64> {
        let item = &stored.head.items[i];
        let Origin::Base { dtype, n_elements } = item.origin else { return Ok(0) };
        if stored.tilings[i].is_empty() {
            return Ok(0);
        }
        let name = &stored.tensors[i].name;
        let b = self.tensor(name)?;
        let used = base_bytes_used(item);
        if b.dtype != dtype || b.n_bytes < used {
            return Err(other_tensor(&self.checkpoint, b, (dtype, n_elements), &stored.tensors[i]));
        }
        base_probe(&self.source, b, used)
    }

    /// Refuses a base that cannot be the one `stored` was made against, naming the first tensor that
    /// differs; reads a few KiB of each.
    pub(crate) fn check(&self, stored: &Stored, wanted: &[usize]) -> Result<()> {
        for &i in wanted {
            let is_used = matches!(stored.head.items[i].origin, Origin::Base { .. });
            if is_used
                && !stored.tilings[i].is_empty()
                && self.probe(stored, i)? != stored.seal.tensors[i].base_probe
            {
                let name = &stored.tensors[i].name;
                return Err(other_values(&self.checkpoint, name));
            }
        }
        Ok(())
    }
}

/// The base has a tensor of this name with other values.
pub(crate) fn other_values(base: &Checkpoint, name: &str) -> Error {
    wrong_base(base, &format!("it has other values in tensor {name}"))
}

/// The base's tensor `found` cannot be the one that `stored` was made against, of which dtype and number of elements
/// are known.
fn other_tensor(
    base: &Checkpoint,
    found: &TensorInfo,
    (dtype, n_elements): (DType, u64),
    stored: &TensorInfo,
) -> Error {
    let wanted = match n_elements == stored.n_elements() {
        true => format!("{:?}", stored.shape),
        false => format!("of at least {n_elements} elements"),
    };
    wrong_base(
        base,
        &format!(
            "its tensor {} is {} {:?}, and that of the right base is {} {wanted}",
            found.name,
            found.dtype.name(),
            found.shape,
            dtype.name(),
        ),
    )
}

/// Refuses `base`, with what tells it from the right one.
fn wrong_base(base: &Checkpoint, how: &str) -> Error {
    let root = base.root().display();
    Error::mismatch(format!("{root} is not the base this variant was made against: {how}"))
}
