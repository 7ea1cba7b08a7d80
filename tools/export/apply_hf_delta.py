#!/usr/bin/env python3
"""Applies a published step of weights to a checkpoint: python3 apply_hf_delta.py VERSION_DIR BASE_DIR OUT_DIR.

A reader of its own, written from what the receivers of such steps do (README.md here) and not from delta-stream's code.
It copies BASE_DIR to OUT_DIR, patches the copy's tensors in place, and checks each against its checksum. Needs
zstandard, and xxhash for xxh3-128. --applied N is the version that BASE_DIR is (default 0).
"""

import argparse
import json
import shutil
import struct
import sys
import zlib
from pathlib import Path

INDEX = "model.safetensors.index.json"
KEYS = {"version", "base_version", "delta_encoding", "compression_format", "checksum_format"}
BLOCK = 1 << 20


class Refused(Exception):
    """The step is not as it must be, or not for this base."""


class Adler32:
    def __init__(self):
        self.value = 1

    def update(self, data):
        self.value = zlib.adler32(data, self.value)

    def hexdigest(self):
        return f"{self.value:08x}"


def hasher(algorithm):
    if algorithm == "adler32":
        return Adler32()
    if algorithm == "xxh3-128":
        import xxhash

        return xxhash.xxh3_128()
    raise Refused(f"checksum format {algorithm}")


def header(path):
    """The JSON of a safetensors file and where its data begins."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if 8 + length > size:
            raise Refused(f"{path}: the header is cut")
        return json.loads(file.read(length)), 8 + length


def places(directory):
    """Of each tensor of a checkpoint its file, offset and length."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        entries, start = header(path)
        for name, entry in entries.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found[name] = (path, start + begin, end - begin)
    return found


def blocks(blob):
    """What one zstd frame expands to, block by block. Like the receivers it reads no second frame."""
    import zstandard

    reader = zstandard.ZstdDecompressor().stream_reader(blob)
    while block := reader.read(BLOCK):
        yield block


def apply_xor(blob, file, offset, length, digest):
    done = 0
    for block in blocks(blob):
        file.seek(offset + done)
        old = file.read(min(len(block), length - done))
        if len(old) != len(block):
            raise Refused("more bytes than the tensor has")
        number = int.from_bytes(old, "little") ^ int.from_bytes(block, "little")
        new = number.to_bytes(len(block), "little")
        file.seek(offset + done)
        file.write(new)
        digest.update(new)
        done += len(block)
    if done != length:
        raise Refused(f"{done} bytes for a tensor of {length}")


def apply_overwrite(blob, file, offset, length, digest):
    import zstandard

    # Refuses a frame that does not say its length, as the receivers do.
    delta = zstandard.ZstdDecompressor().decompress(blob)
    (count,) = struct.unpack("<I", delta[:4])
    if len(delta) != 4 + 5 * count:
        raise Refused("a number of changes that does not fit its bytes")
    file.seek(offset)
    tensor = bytearray(file.read(length))
    for (place,), value in zip(struct.iter_unpack("<I", delta[4 : 4 + 4 * count]), delta[4 + 4 * count :]):
        tensor[place] = value
    file.seek(offset)
    file.write(tensor)
    digest.update(bytes(tensor))


APPLY = {"xor": apply_xor, "overwrite": apply_overwrite}


def check_index(version_dir, applied):
    """The index of a step that may be applied to the version `applied`."""
    index = json.loads((version_dir / INDEX).read_text())
    metadata = index["metadata"]
    if set(metadata) != KEYS or not all(isinstance(value, str) for value in metadata.values()):
        raise Refused(f"metadata {metadata}")
    if version_dir.name != f"weight_v{int(metadata['version']):06d}":
        raise Refused(f"{version_dir.name} says it is version {metadata['version']}")
    if int(metadata["base_version"]) != applied:
        raise Refused(f"it builds on version {metadata['base_version']}, the checkpoint is {applied}")
    if metadata["compression_format"] != "zstd" or metadata["delta_encoding"] not in APPLY:
        raise Refused(f"metadata {metadata}")
    return index


def apply(version_dir, base, out, applied=0):
    """Makes `out` of `base`; returns how many tensors changed."""
    version_dir, base, out = Path(version_dir), Path(base), Path(out)
    index = check_index(version_dir, applied)
    metadata, weight_map = index["metadata"], dict(index["weight_map"])
    shutil.copytree(base, out)
    for path in out.iterdir():
        path.chmod(0o644)
    tensors = places(out)
    n_tensors = 0
    for delta_file in sorted(version_dir.glob("*.safetensors")):
        entries, start = header(delta_file)
        checksums = entries.pop("__metadata__")
        blob, at = delta_file.read_bytes(), 0
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            if entry["dtype"] != "U8" or entry["shape"] != [end - begin] or begin != at:
                raise Refused(f"{name}: {entry}")
            at = end
            if weight_map.pop(name, None) != delta_file.name or name not in tensors:
                raise Refused(f"{name} is not where the index says, or not in the base")
            path, offset, length = tensors[name]
            digest = hasher(metadata["checksum_format"])
            with path.open("r+b") as file:
                APPLY[metadata["delta_encoding"]](blob[start + begin : start + end], file, offset, length, digest)
            if digest.hexdigest() != checksums[name]:
                raise Refused(f"{name}: the checksum differs")
            n_tensors += 1
        if start + at != len(blob) or set(checksums) != set(entries):
            raise Refused(f"{delta_file.name}: what the header says is not what is there")
    if weight_map:
        raise Refused(f"missing: {sorted(weight_map)[:5]}")
    return n_tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version_dir", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--applied", type=int, default=0)
    args = parser.parse_args()
    try:
        print(apply(args.version_dir, args.base, args.out, args.applied), "tensors changed")
    except (Refused, KeyError, ValueError, OSError) as error:
        sys.exit(f"refused: {error}")


if __name__ == "__main__":
    main()
