"""Random keys, and the masks drawn from them (METHODS sections 3.9 and 4.10: counter-based, keyed by seed and name).

Every mask is a function of one uniform key per entry, so a test may hand in keys, or a mask, of its own.
"""
import numpy as np


def keys(seed, name, shape):
    """Uniform u64 keys: output i of SplitMix64 started at FNV-1a("SEED/NAME"), in row-major order."""
    start = 0xCBF29CE484222325
    for byte in f"{seed}/{name}".encode():
        start = (start ^ byte) * 0x100000001B3 % 2**64
    count = np.prod(shape, dtype=int)
    x = np.uint64(start) + np.arange(1, count + 1, dtype="u8") * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return (x ^ x >> np.uint64(31)).reshape(shape)


def bernoulli(keys, drop):
    """METHODS section 5.2: keep an entry with probability 1 - drop, independently."""
    return (keys >> np.uint64(11)) * 2.0**-53 >= drop


def grouped(keys, group, survivors):
    """METHODS section 3.4 G1, G2: keep exactly `survivors` of every `group` entries of a row, those of smallest key."""
    if keys.shape[-1] % group:
        raise ValueError(f"group {group} does not divide a row of {keys.shape[-1]}")
    rank = keys.reshape(-1, group).argsort(1, kind="stable").argsort(1)
    return (rank < survivors).reshape(keys.shape)


def by_value(keys, codes, rate):
    """METHODS section 4.4 P2, P3: of every group of equal codes drop round(n rate) entries, those of smallest key."""
    keep = np.ones(codes.size, bool)
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        shuffled = members[keys.ravel()[members].argsort(kind="stable")]
        keep[shuffled[: round(len(members) * rate)]] = False
    return keep.reshape(codes.shape)
