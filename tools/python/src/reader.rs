//! Variants and their tensors, read into arrays of the caller's.

use std::path::PathBuf;

use delta_stream::{TensorInfo, TensorReader, VariantReader};
use numpy::PyReadwriteArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::errors::raise;
use crate::observer::Watcher;
use crate::options;

/// Name, dtype as safetensors spells it, shape, bytes.
type Described<'py> = (String, &'static str, Bound<'py, PyTuple>, u64);

fn describe<'py>(py: Python<'py>, tensor: &TensorInfo) -> PyResult<Described<'py>> {
    let shape = PyTuple::new(py, &tensor.shape)?;
    Ok((tensor.name.clone(), tensor.dtype.name(), shape, tensor.n_bytes))
}

/// A variant, from its records alone.
#[pyclass(frozen)]
pub(crate) struct Variant(VariantReader);

#[pymethods]
impl Variant {
    #[new]
    #[pyo3(signature = (archive, name=None))]
    fn new(py: Python<'_>, archive: PathBuf, name: Option<String>) -> PyResult<Self> {
        let opened = py.detach(|| VariantReader::open(&archive, name.as_deref()));
        opened.map(Self).map_err(|e| raise(py, &e))
    }

    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    /// Its tensors in file order.
    fn tensors<'py>(&self, py: Python<'py>) -> PyResult<Vec<Described<'py>>> {
        self.0.tensors().iter().map(|tensor| describe(py, tensor)).collect()
    }

    /// Of each tensor, whether the base has the same bits under its name.
    fn as_in_base(&self) -> Vec<bool> {
        (0..self.0.tensors().len()).map(|i| self.0.is_as_in_base(i)).collect()
    }

    /// Opens its base.
    fn on(&self, py: Python<'_>, base: PathBuf, resources: &str) -> PyResult<Reader> {
        let resources = options::resources(resources).map_err(|e| raise(py, &e))?;
        let opened = py.detach(|| self.0.on(&base, &resources));
        opened.map(Reader).map_err(|e| raise(py, &e))
    }
}

/// A variant with its base.
#[pyclass(frozen)]
pub(crate) struct Reader(TensorReader);

/// The bytes of an array that lies in one piece.
fn bytes_of<'a>(out: &'a mut PyReadwriteArray1<'_, u8>) -> PyResult<&'a mut [u8]> {
    out.as_slice_mut().map_err(|_| PyValueError::new_err("the array is not contiguous"))
}

#[pymethods]
impl Reader {
    /// Decodes the tensor at this position of the variant's into an array of its bytes.
    fn read(
        &self,
        py: Python<'_>,
        tensor: usize,
        mut out: PyReadwriteArray1<'_, u8>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let bytes = bytes_of(&mut out)?;
        let watcher = Watcher::new(progress);
        let done = py.detach(|| self.0.read(tensor, bytes, &watcher));
        watcher.finish(py, done)
    }

    /// The base's tensors in file order.
    fn base_tensors<'py>(&self, py: Python<'py>) -> PyResult<Vec<Described<'py>>> {
        self.0.base().tensors().iter().map(|tensor| describe(py, tensor)).collect()
    }

    /// Copies the tensor at this position of the base's into an array of its bytes.
    fn read_base(
        &self,
        py: Python<'_>,
        tensor: usize,
        mut out: PyReadwriteArray1<'_, u8>,
    ) -> PyResult<()> {
        let bytes = bytes_of(&mut out)?;
        let done = py.detach(|| self.0.read_base(tensor, bytes));
        done.map_err(|e| raise(py, &e))
    }
}
