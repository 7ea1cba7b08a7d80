//! What a run takes of memory.

use crate::error::Result;
use crate::method::Method;
use crate::pipeline::budget::Needs;
use crate::pipeline::encode::Run;
use crate::pipeline::inputs::Inputs;
use crate::pipeline::known::Known;
use crate::pipeline::options::{CompressOptions, Resources};

/// Says whether there is memory for a run.
///
/// # Errors
/// `InvalidArgument` naming the least that it takes.
pub(crate) fn check_memory(
    inputs: &Inputs,
    options: &CompressOptions,
    run: &Run<'_>,
) -> Result<()> {
    let Resources { max_memory, threads, .. } = options.resources;
    needs(inputs, &options.method, run).width(max_memory, threads).map(drop)
}

/// What a run takes, with what it is given of earlier ones.
pub(super) fn needs(inputs: &Inputs, method: &Method, run: &Run<'_>) -> Needs {
    let mut needs = inputs.needs(method, &run.sides);
    needs.resident += Known::new(run.kept, method.lossy(), &inputs.pair).resident_bytes();
    needs
}
