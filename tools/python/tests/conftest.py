"""Pairs of made-up checkpoints, written without any library but NumPy."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest

import delta_stream as ds


def write(path, tensors):
    """A safetensors file of (name, dtype, array of the right width)."""
    header, at = {}, 0
    for name, dtype, array in tensors:
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for _, _, a in tensors))


def read(path):
    """The bytes of every tensor of a file or directory, by name."""
    found = {}
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        data = file.read_bytes()
        (n,) = struct.unpack("<Q", data[:8])
        for name, info in json.loads(data[8 : 8 + n]).items():
            if name != "__metadata__":
                begin, end = (8 + n + at for at in info["data_offsets"])
                found[name] = (info["dtype"], tuple(info["shape"]), data[begin:end])
    return found


def bf16(values):
    """The bits of values as BF16, cut off."""
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2")


def tensors_of(seed, delta):
    """A small model whose second matrix has two tiles; `delta` is how far it is tuned."""
    draw = np.random.default_rng(7)
    tuned = np.random.default_rng(seed)

    def values(*shape):
        base = draw.normal(0, 0.05, shape)
        return base + tuned.normal(0, delta, shape) if delta else base

    return [
        ("model.layers.0.mlp.up_proj.weight", "F32", values(96, 64).astype("<f4")),
        ("model.layers.0.mlp.down_proj.weight", "BF16", bf16(values(1100, 1024))),
        ("model.layers.0.norm.weight", "F16", values(64).astype("<f2")),
        ("model.step", "I64", np.array(3, "<i8")),
        ("model.mask", "BOOL", np.array([[True, False, True]])),
        # Tuned in no fine-tune.
        ("model.embed_tokens.weight", "F32", np.random.default_rng(1).normal(0, 1, (50, 8)).astype("<f4")),
        ("model.empty", "F32", np.zeros((0, 4), "<f4")),
    ]


class Pair:
    """A directory with `base`, `one` and `two`, fine-tunes of it, and an archive of both."""

    def __init__(self, root: Path):
        self.root = root
        for name, seed, delta in (("base", 0, 0), ("one", 1, 0.004), ("two", 2, 0.004)):
            write(root / name / "model.safetensors", tensors_of(seed, delta))
            (root / name / "config.json").write_text("{}")
        self.base, self.one, self.two = (root / name for name in ("base", "one", "two"))
        self.archive = root / "a.delta.zst"

    def compress(self):
        ds.compress(self.one, self.base, self.archive)
        ds.append(self.two, self.base, self.archive, method="lossless")
        return self


@pytest.fixture(scope="session")
def shared_pair(tmp_path_factory):
    return Pair(tmp_path_factory.mktemp("pair")).compress()


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path)
