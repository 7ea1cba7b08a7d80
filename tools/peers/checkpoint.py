#!/usr/bin/env python3
"""Safetensors checkpoints as these programs need them: hashed, compared, and written anew as one file.

    checkpoint.py SOURCE OUT_DIRECTORY [--dtype f32|bf16] [--limit BYTES]

SOURCE is a directory or one file. All its tensors go into OUT_DIRECTORY/model.safetensors in their order: floats
converted if --dtype says so (to bf16 by rounding to the nearest, ties to even), and only so many whole tensors as have
room below --limit. Small files beside them are copied.
"""
import argparse, hashlib, json, shutil, struct
from pathlib import Path

import numpy as np

CHUNK = 16 << 20
FLOATS = {"F32": 4, "BF16": 2, "F16": 2}


class Tensor:
    """Where one tensor's bytes are."""

    def __init__(self, path, start, entry):
        self.path, self.dtype, self.shape = path, entry["dtype"], entry["shape"]
        begin, end = entry["data_offsets"]
        self.offset, self.bytes = start + begin, end - begin

    def chunks(self):
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            left = self.bytes
            while left:
                chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise ValueError(f"{self.path} ends early")
                left -= len(chunk)
                yield chunk


def files(source):
    source = Path(source)
    return sorted(source.glob("*.safetensors")) if source.is_dir() else [source]


def read(source):
    """({name: Tensor} in the order of files and bytes, the metadata of the first file)."""
    tensors, metadata = {}, None
    for path in files(source):
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(length))
        own = header.pop("__metadata__", None)
        metadata = metadata or own
        found = {name: Tensor(path, 8 + length, entry) for name, entry in header.items()}
        tensors.update(sorted(found.items(), key=lambda item: item[1].offset))
    return tensors, metadata


def size(source):
    return sum(path.stat().st_size for path in files(source))


def digest(chunks):
    hasher = hashlib.blake2b(digest_size=16)
    for chunk in chunks:
        hasher.update(chunk)
    return hasher.hexdigest()


def file_digest(path):
    with open(path, "rb") as file:
        return digest(iter(lambda: file.read(CHUNK), b""))


class Original:
    """A fine-tune's hashes, taken once, which restored copies are held against."""

    def __init__(self, source):
        self.files = sorted(map(file_digest, files(source)))
        self.tensors = {name: (t.dtype, t.shape, digest(t.chunks())) for name, t in read(source)[0].items()}

    def verdict(self, restored):
        """What came back, in words."""
        if sorted(map(file_digest, files(restored))) == self.files:
            return "bit-exact"
        found = read(restored)[0]
        if missing := [name for name in self.tensors if name not in found]:
            return f"lossy, {len(missing)} tensors missing"
        if more := len(found) - len(self.tensors):
            return f"lossy, {more} tensors more"
        now = {name: (t.dtype, t.shape, digest(t.chunks())) for name, t in found.items()}
        if now == self.tensors:
            return "bit-exact, header differs"
        other = sorted({now[name][0] for name, (dtype, *_) in self.tensors.items() if now[name][0] != dtype})
        if other:
            return f"lossy, comes back as {', '.join(other)}"
        return "lossy"


def converted(raw, source, target):
    """The bytes of floats of one dtype as another. NaN keeps its sign and the upper part of its payload."""
    if source == target:
        return raw
    if source == "BF16":
        single = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        single = np.frombuffer(raw, "<f4" if source == "F32" else "<f2").astype("<f4")
    if target == "F32":
        return single.tobytes()
    bits = single.view("<u4")
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(single), bits >> 16 | 0x40, rounded).astype("<u2").tobytes()


def planned(tensor, dtype):
    """The dtype and the bytes that a tensor will have."""
    if not dtype or tensor.dtype not in FLOATS:
        return tensor.dtype, tensor.bytes
    return dtype, tensor.bytes // FLOATS[tensor.dtype] * FLOATS[dtype]


def first(source, limit, dtype=None):
    """Names of tensors from the first on that have room in `limit` bytes; one that has not is left out."""
    names, used = set(), 0
    for name, tensor in read(source)[0].items():
        length = planned(tensor, dtype)[1]
        if used + length <= limit:
            names.add(name)
            used += length
    return names


def write(source, out, dtype=None, names=None):
    """Writes the checkpoint, or its tensors with these names, as out/model.safetensors, and returns that path."""
    tensors, metadata = read(source)
    header, offset, kept = {"__metadata__": metadata} if metadata else {}, 0, []
    for name, tensor in tensors.items():
        if names is not None and name not in names:
            continue
        target, length = planned(tensor, dtype)
        header[name] = {"dtype": target, "shape": tensor.shape, "data_offsets": [offset, offset + length]}
        offset += length
        kept.append((tensor, target))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "model.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor, target in kept:
            for chunk in tensor.chunks():
                file.write(converted(chunk, tensor.dtype, target))
    for beside in Path(source).glob("*") if Path(source).is_dir() else []:
        if beside.is_file() and beside.suffix != ".safetensors" and not beside.name.endswith(".index.json"):
            shutil.copyfile(beside, out / beside.name)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", choices=("f32", "bf16"))
    parser.add_argument("--limit", type=int)
    args = parser.parse_args()
    dtype = args.dtype and args.dtype.upper()
    print(write(args.source, args.out, dtype, args.limit and first(args.source, args.limit, dtype)))


if __name__ == "__main__":
    main()
