"""Writes the pool of real values, and checkpoints that share its blocks."""
import fcntl
import json
import os
import re
import shutil
import struct
import subprocess

import layout
from models import config, tensors

FICLONERANGE = 0x4020940D
CHUNK = 8 << 20
GIB = 1 << 30
# A made-up pair whose blocks are those of llama-2-7B; its embedding is next to nothing.
PAIR = {"--hidden": 4096, "--intermediate": 11008, "--vocab": 256, "--dtype": "bf16"}
PAIR_LAYER_BYTES = 2 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
# A fine-tune is cut into other shards than its base, as saving it again does.
FINE_TUNE_SHARD_BYTES = 5 * 10**9
SIDES = ("base", "fine-tune")


def read_header(path):
    """Start of the data, and of each tensor (dtype, shape, begin, end)."""
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        entries = json.loads(f.read(n))
    entries.pop("__metadata__", None)
    return 8 + n, {name: (e["dtype"], e["shape"], *e["data_offsets"]) for name, e in entries.items()}


def matrices(directory):
    """The bf16 matrices of a checkpoint: name to (file, offset, bytes)."""
    out = {}
    for path in sorted(directory.glob("*.safetensors")):
        start, entries = read_header(path)
        for name, (dtype, shape, begin, end) in entries.items():
            if dtype == "BF16" and len(shape) == 2:
                out[name] = (path, start + begin, end - begin)
    return out


def make_pool(program, directory, gib, pair, threads):
    """Writes `directory`/base and /fine-tune: the same tensors of a pair, one behind the other."""
    directory.mkdir()
    origin = "a given pair" if pair else "make-pair"
    made = directory / "pair"
    if pair is None:
        layers = -(-gib * GIB // PAIR_LAYER_BYTES)
        options = [str(x) for item in PAIR.items() for x in item]
        subprocess.run(
            [program, "make-pair", made, *options, "--layers", str(layers), "--base-shards", "1", "--shards", "1",
             "--threads", str(threads), "--quiet"],
            check=True, stdout=subprocess.DEVNULL,
        )
        pair = [made / side for side in SIDES]
    found = [matrices(directory) for directory in pair]
    names = [name for name in found[0] if name in found[1] and found[0][name][2] == found[1][name][2]]
    for side, places in zip(SIDES, found):
        gather([places[name] for name in names], directory / side, gib * GIB)
    shutil.rmtree(made, ignore_errors=True)
    (directory / "origin").write_text(origin)


def pool_bytes(directory):
    """Whole blocks that both sides have."""
    return min((directory / side).stat().st_size for side in SIDES) // layout.BLOCK * layout.BLOCK


def gather(places, out, limit):
    """Copies tensors into one file of at most `limit` bytes."""
    with open(out, "wb") as to:
        for path, offset, size in places:
            with open(path, "rb") as source:
                source.seek(offset)
                left = min(size, limit - to.tell())
                while left:
                    left -= to.write(source.read(min(CHUNK, left)))
        os.fsync(to.fileno())


def write_pair(directory, model, pool):
    """Writes `directory`/base and /fine-tune with the shapes of `model`; both take the same places of the pool."""
    for side, limit in zip(SIDES, (model.shard_bytes, FINE_TUNE_SHARD_BYTES)):
        out = directory / side
        out.mkdir(parents=True)
        write_checkpoint(out, model, limit, pool / side, pool_bytes(pool))


def write_checkpoint(out, model, limit, pool_file, n_pool):
    all_tensors = tensors(model)
    places = layout.pool_places(all_tensors, n_pool)
    cut = layout.split(all_tensors, limit)
    shards = [(layout.shard_name(i, len(cut)), layout.placed(shard)) for i, shard in enumerate(cut)]
    with open(pool_file, "rb") as pool:
        for name, shard in shards:
            write_shard(out / name, shard, pool.fileno(), places, n_pool)
    (out / "model.safetensors.index.json").write_text(json.dumps(layout.index(shards), indent=2) + "\n")
    (out / "config.json").write_text(json.dumps(config(model), indent=2) + "\n")


def write_shard(path, shard, pool, places, n_pool):
    head = layout.header(shard)
    with open(path, "wb") as out:
        out.write(head)
        out.flush()
        out.truncate(len(head) + shard[-1].begin + shard[-1].size)
        for tensor in shard:
            for done, at, n in layout.pieces(tensor.size, places[tensor.name], n_pool):
                copy_piece(out.fileno(), len(head) + tensor.begin + done, pool, at, n)
        os.fsync(out.fileno())


def copy_piece(out, to, pool, at, n):
    """Shares whole blocks with the pool. What is no whole block is small, and copied."""
    if to % layout.BLOCK or n % layout.BLOCK:
        os.pwrite(out, os.pread(pool, n, at), to)
    else:
        fcntl.ioctl(out, FICLONERANGE, struct.pack("qQQQ", pool, at, n, to))


def shared_extents(path):
    """(shared, all) extents of a file, as filefrag tells."""
    listing = subprocess.run(["filefrag", "-v", path], check=True, capture_output=True, text=True).stdout
    extents = re.findall(r"^\s*\d+:\s+\d+\.\..*$", listing, re.M)
    return sum("shared" in extent for extent in extents), len(extents)
