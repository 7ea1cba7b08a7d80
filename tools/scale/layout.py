"""Where tensors lie: in shards, in a shard's file, and in the pool that lends its blocks. Only arithmetic."""
import json
import math
from dataclasses import dataclass

from models import BYTES

BLOCK = 4096  # of the file system; what a clone is aligned to


@dataclass(frozen=True)
class Placed:
    """A tensor in a shard's file; `begin` is counted from the start of the data."""

    name: str
    shape: tuple
    begin: int

    @property
    def size(self):
        return n_bytes(self.shape)


def n_bytes(shape):
    return BYTES * math.prod(shape)


def up(n):
    """The next whole block."""
    return -(-n // BLOCK) * BLOCK


def split(tensors, limit):
    """Cuts tensors into shards of at most `limit` bytes in order, as transformers does."""
    shards, room = [], 0
    for tensor in tensors:
        size = n_bytes(tensor[1])
        if size > room:
            shards.append([])
            room = limit
        shards[-1].append(tensor)
        room -= size
    return shards


def shard_name(i, n):
    return f"model-{i + 1:05}-of-{n:05}.safetensors"


def placed(shard):
    """The tensors of a shard by name, those that are no whole number of blocks behind the others.

    So every matrix begins on a block, in base and fine-tune alike, whatever stands in front of it.
    """
    out, begin = [], 0
    for name, shape in sorted(shard, key=lambda t: (n_bytes(t[1]) % BLOCK != 0, t[0])):
        out.append(Placed(name, shape, begin))
        begin += n_bytes(shape)
    return out


def header(tensors):
    """A safetensors header with its length in front, padded with spaces to whole blocks."""
    entries = {"__metadata__": {"format": "pt"}}
    for t in tensors:
        offsets = [t.begin, t.begin + t.size]
        entries[t.name] = {"dtype": "BF16", "shape": list(t.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":")).encode()
    total = up(8 + len(text))
    return (total - 8).to_bytes(8, "little") + text.ljust(total - 8)


def index(shards):
    """The model.safetensors.index.json of shards as (file name, tensors)."""
    total = sum(t.size for _, tensors in shards for t in tensors)
    weight_map = {t.name: name for name, tensors in shards for t in tensors}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def pool_places(tensors, pool_bytes):
    """Where in the pool each tensor begins: one behind the other, round and round."""
    out, at = {}, 0
    for name, shape in tensors:
        out[name] = at % pool_bytes
        at += up(n_bytes(shape))
    return out


def pieces(size, place, pool_bytes):
    """What a tensor of `size` bytes takes from the pool: (offset in it, offset in the pool, bytes)."""
    out, done = [], 0
    while done < size:
        at = (place + done) % pool_bytes
        n = min(size - done, pool_bytes - at)
        out.append((done, at, n))
        done += n
    return out
