"""Checkpoints: safetensors in and out with numpy alone, and which tensors are compressed lossily.

A stored tensor keeps its own bytes, so whatever is not compressed goes through bit for bit.
bf16, which numpy lacks, is held as its 16 raw bits.
"""
import json
import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

STORAGE = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1", "BOOL": "?",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}
FLOATS = ("F64", "F32", "F16", "BF16")
BLOCK = re.compile(r"(^|\.)(layers?|h|blocks?|resblocks)\.\d+\.")


class Tensor(NamedTuple):
    """One tensor as stored: the safetensors type, and an array of STORAGE[dtype]."""

    dtype: str
    data: np.ndarray


def widen(tensor):
    """The tensor's values in f32 (METHODS section 0.1: all arithmetic on weights is f32)."""
    if tensor.dtype == "BF16":
        return (tensor.data.astype("<u4") << 16).view("<f4")
    return tensor.data.astype("<f4")


def narrow(values, dtype):
    """f32 values as a tensor of `dtype`, rounded to nearest, ties to even."""
    values = np.ascontiguousarray(values, "<f4")
    if dtype != "BF16":
        return Tensor(dtype, values.astype(STORAGE[dtype]))
    bits = values.view("<u4")
    even = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return Tensor(dtype, np.where(np.isnan(values), bits >> 16 | 0x40, even).astype("<u2"))


def load(directory):
    """Every tensor of every safetensors file in a directory, by name, in file order."""
    tensors = {}
    for path in sorted(Path(directory).glob("*.safetensors")):
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            data = np.frombuffer(raw[start:stop], STORAGE[entry["dtype"]])
            tensors[name] = Tensor(entry["dtype"], data.reshape(entry["shape"]))
    return tensors


def save(tensors, path):
    """Write one safetensors file, in the order given."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        stop = offset + tensor.data.nbytes
        header[name] = {"dtype": tensor.dtype, "shape": tensor.data.shape, "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.data.tobytes())


def is_linear(name, tensor):
    """METHODS section 0.2: a linear layer's weight inside a transformer block, or a stack of them.

    Stacked experts may be bare parameters, such as `mlp.experts.gate_up_proj`, with no suffix at all.
    """
    suffix = name.rpartition(".")[2]
    ranks = {"weight": (2, 3), "bias": ()}.get(suffix, (3,))
    return bool(BLOCK.search(name)) and tensor.dtype in FLOATS and tensor.data.ndim in ranks


def lossy(base, fine):
    """Names of the tensors to compress: linear in the fine-tune, and of equal shape in a float base."""
    return [
        name for name, tensor in fine.items()
        if is_linear(name, tensor) and name in base
        and base[name].dtype in FLOATS and base[name].data.shape == tensor.data.shape
    ]


def deltas(base, fine):
    """METHODS section 0.1: D = W_ft - W_pre in f32 for every lossy tensor, one matrix an entry.

    Matrix i of a stacked tensor gets the name `NAME[i]`; `restore` puts the stack together again.
    """
    out = {}
    for name in lossy(base, fine):
        delta = widen(fine[name]) - widen(base[name])
        if delta.ndim == 2:
            out[name] = delta
        else:
            out.update({f"{name}[{i}]": matrix for i, matrix in enumerate(delta)})
    return out


def restore(base, fine, decoded):
    """METHODS section 0.1: W_hat = W_pre + D_hat in f32, cast to the base's type; all else is the fine-tune's."""
    out = dict(fine)
    for name in lossy(base, fine):
        weight = widen(base[name])
        if weight.ndim == 2:
            delta = decoded[name]
        else:
            delta = np.stack([decoded[f"{name}[{i}]"] for i in range(len(weight))])
        out[name] = narrow(weight + delta, base[name].dtype)
    return out
