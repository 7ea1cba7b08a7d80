"""Bytes of a tensor as an array: the same memory, seen as its dtype and shape."""

from __future__ import annotations

from typing import Any, Dict, Tuple

import numpy as np

from ._errors import InvalidArgumentError

# What NumPy has itself.
_NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
    "C64": "<c8",
}

# What the package ml_dtypes adds to it, and what stands for it where that is not installed.
_ML_DTYPES = {
    "BF16": ("bfloat16", "<u2"),
    "F8_E4M3": ("float8_e4m3fn", "u1"),
    "F8_E5M2": ("float8_e5m2", "u1"),
    "F8_E8M0": ("float8_e8m0fnu", "u1"),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", "u1"),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", "u1"),
}

_TORCH = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}

_dtypes: Dict[str, "np.dtype[Any]"] = {}


def numpy_dtype(name: str) -> "np.dtype[Any]":
    """The NumPy dtype of a safetensors dtype.

    What NumPy lacks (BF16, F8_*) is ``ml_dtypes``'s where that package is installed. Otherwise it is an unsigned
    integer of the same width, with ``dtype.metadata["safetensors"]`` naming what it stands for. Elements
    of less than a byte (F4, F6_*) are bytes, named so too.
    """
    found = _dtypes.get(name)
    if found is None:
        found = _dtypes.setdefault(name, _find_dtype(name))
    return found


def _find_dtype(name: str) -> "np.dtype[Any]":
    if name in _NUMPY:
        return np.dtype(_NUMPY[name])
    there, instead = _ML_DTYPES.get(name, ("", "u1"))
    try:
        import ml_dtypes

        found: "np.dtype[Any]" = np.dtype(getattr(ml_dtypes, there))
        return found
    except (ImportError, AttributeError):
        return np.dtype(instead, metadata={"safetensors": name})


def _has_whole_bytes(name: str) -> bool:
    return name in _NUMPY or name in _ML_DTYPES


def as_numpy(data: "np.ndarray[Any, np.dtype[np.uint8]]", dtype: str, shape: Tuple[int, ...]) -> Any:
    """Those bytes as an array of this dtype and shape; flat where elements have less than a byte."""
    array = data.view(numpy_dtype(dtype))
    return array.reshape(shape) if _has_whole_bytes(dtype) else array


def torch_dtype(name: str) -> Any:
    """The torch dtype of a safetensors dtype.

    Raises:
        InvalidArgumentError: If the torch that is installed has none.
    """
    import torch

    found = getattr(torch, _TORCH.get(name, ""), None)
    if found is None:
        raise InvalidArgumentError(f"torch {torch.__version__} has no dtype for {name}; read it with NumPy")
    return found


def as_torch(data: "np.ndarray[Any, np.dtype[np.uint8]]", dtype: str, shape: Tuple[int, ...]) -> Any:
    """Those bytes as a tensor of this dtype and shape, without a copy."""
    import torch

    wanted = torch_dtype(dtype)
    if not data.size:
        return torch.empty(shape, dtype=wanted)
    return torch.from_numpy(data).view(wanted).reshape(shape)
