#!/usr/bin/env python3
"""Shared test vectors: vectors.py [METHOD ...] writes vectors/METHOD.json, for every method by default.

Inputs come from an integer generator, so that another language needs no file for them:

    state_0 = seed, state_i+1 = 6364136223846793005 state_i + 1442695040888963407 mod 2^64, draw_i = state_i+1 >> 40
    base[i, j]  = (draw - 2^23) / 2^25                         first m n draws, row-major
    delta[i, j] = (1 + i mod 5) (1 + j mod 3) (sum of 4 draws, each >> 14, - 2046) / 2^24        then four an entry
    fine[i, j]  = base[i, j] + delta[i, j]

Base, delta and fine-tune are all exact in f32. A random mask is handed over as hex of its bits, row-major and
most significant bit first, not drawn anew. Floats are printed with the digits that identify them, f16 as bits.

The model of `trellis` only decodes, so its archives, of the same bases, are the program's own. They are taken over
from the file there is, and made anew if DELTA_STREAM names the program's file.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import bitdelta
import checkpoints
import codec
import dare
import dbms
import delta_dct
import deltadq
import generator
import masks
import trellis
import ultradelta

FIRST, FOLDER = 64, Path(__file__).parent / "vectors"


def draws(seed, count):
    """The generator's first 24-bit draws."""
    out, state = np.empty(count, "i8"), seed
    for i in range(count):
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        out[i] = state >> 40
    return out


def pair(seed, m, n):
    """Base and fine-tune, f32 [m, n]."""
    stream = draws(seed, 5 * m * n)
    base = (stream[: m * n].reshape(m, n) - 2**23) / 2**25
    noise = (stream[m * n :] >> 14).reshape(m, n, 4).sum(2) - 2046
    i, j = np.ogrid[:m, :n]
    fine = base + (1 + i % 5) * (1 + j % 3) * noise / 2**24
    return base.astype("f4"), fine.astype("f4")


def case(seed, m, n):
    """What every vector starts with, and the delta."""
    base, fine = pair(seed, m, n)
    delta = fine - base
    head = {"seed": seed, "shape": [m, n], "base": base.ravel()[:4], "fine": fine.ravel()[:4]}
    return head | {"delta_squares": squares(delta)}, delta


def squares(x):
    """Sum of squares, in f64."""
    return float((x.astype("f8") ** 2).sum())


def result(decoded, delta):
    """What every vector ends with."""
    return {
        "decoded": decoded.ravel()[:FIRST], "decoded_squares": squares(decoded),
        "noise_squares": squares(decoded.astype("f8") - delta),
    }


def packed(mask):
    """A mask as hex."""
    return np.packbits(mask).tobytes().hex()


def delta_dct_cases():
    """`codes` are those of the first two kept patches; `margin` is the least distance of any from a rounding tie."""
    thirds = ((2, 0.34), (1, 0.33), (0, 0.33))
    for seed, shape, p, allocation in (
        (1, (40, 56), 16, delta_dct.MAIN), (2, (40, 56), 8, thirds), (3, (33, 47), 16, delta_dct.MAIN),
    ):
        head, delta = case(seed, *shape)
        enc = delta_dct.encode(delta, p, allocation)
        top = delta_dct.levels(enc["classes"], allocation)
        coefficients = delta_dct.transform(delta_dct.patchify(delta.astype("f8"), p))
        scale = delta_dct.scaled(coefficients, enc["lo"], enc["hi"], top)[top > 0]
        yield head | {
            "p": p, "allocation": allocation, "classes": enc["classes"], "mu": enc["mu"],
            "lo_bits": enc["lo"].view("u2"), "hi_bits": enc["hi"].view("u2"), "codes": enc["codes"][top > 0][:2],
            "code_sum": int(enc["codes"].sum()), "margin": float(np.abs(scale % 1 - 0.5).min()),
            "bits": delta_dct.bits(enc), "plain": result(delta_dct.decode(enc, rescale=False), delta),
        } | result(delta_dct.decode(enc), delta)


def bitdelta_cases():
    """`signs` are one mask a plane."""
    for planes, scale in ((1, "mean"), (1, "unbiased"), (3, "mean"), (3, "unbiased")):
        head, delta = case(4, 24, 40)
        enc = bitdelta.encode(delta, planes, scale)
        yield head | {
            "planes": planes, "scale": scale, "signs": [packed(plane) for plane in enc["signs"]],
            "scales": enc["scales"], "bits": bitdelta.bits(enc),
        } | result(bitdelta.decode(enc), delta)


def dare_cases():
    """`values` are the first survivors' bits, before the rescale."""
    for drop, value in ((0.9, "F16"), (0.5, "BF16")):
        head, delta = case(5, 24, 40)
        enc = dare.encode(delta, masks.bernoulli(masks.keys(0, "dare", delta.shape), drop), value)
        yield head | {
            "drop": drop, "value": value, "keep": packed(enc["keep"]),
            "values": enc["values"].data.view("u2")[:FIRST], "bits": dare.bits(enc),
        } | result(dare.decode(enc, drop), delta)


def deltadq_cases():
    """`parts` counts the entries of each of 8 parts; `margin` is as for Delta-DCT."""
    for alpha, group, k in ((8, 16, 4), (4, 4, 2), (32, 32, 8)):
        head, delta = case(6, 24, 64)
        keep = masks.grouped(masks.keys(0, "deltadq", delta.shape), group, group // alpha)
        enc = deltadq.encode(delta, keep, alpha, k)
        scale = delta[keep].astype("f8") * alpha / np.float64(enc["scale"])
        yield head | {
            "alpha": alpha, "group": group, "k": k, "keep": packed(keep), "scale": enc["scale"], "zero": enc["zero"],
            "codes": enc["codes"], "margin": float(np.abs(scale % 1 - 0.5).min()),
            "parts": [len(q) for _, q in deltadq.split(enc, min(8, 2**k))],
            "bits": {index: deltadq.bits(enc, index, 1, group) for index in ("seed", "ingroup", "csr")},
        } | result(deltadq.decode(enc), delta)


def ultradelta_cases():
    """A model of three tensors for the rates, then each of them; `codes` is the whole matrix, one hex digit a code."""
    target, step = 0.9, 0.05
    model = {"a": case(7, 16, 40), "b": case(8, 40, 24), "c": case(9, 24, 32)}
    quantised = {name: ultradelta.quantise(delta) for name, (_, delta) in model.items()}
    rates = ultradelta.allot({name: ultradelta.values(enc) for name, enc in quantised.items()}, target, step)
    for name, (head, delta) in model.items():
        enc = quantised[name]
        keep = ultradelta.prune(enc, rates[name], masks.keys(0, name, delta.shape))
        scale = (delta.astype("f8") - enc["min"]) / (np.float64(enc["max"]) - enc["min"]) * 15
        yield head | {
            "name": name, "target": target, "step": step, "min": enc["min"], "max": enc["max"], "rate": rates[name],
            "codes": "".join(f"{code:x}" for code in enc["codes"].ravel()), "keep": packed(keep),
            "survivors_by_code": np.bincount(enc["codes"][keep], minlength=16), "bits": ultradelta.bits(enc, keep),
            "margin": float(np.abs(scale % 1 - 0.5).min()),
        } | result(ultradelta.decode(enc, keep, target), delta)


def dbms_cases():
    """Around BitDelta with the mean scale, base vector and delta alike."""
    plain = codec.per_matrix(lambda _, delta: bitdelta.encode(delta), bitdelta.decode, bitdelta.bits)
    for lam, eta, rule in ((0.0, 1.0, "least_squares"), (0.75, None, "least_squares"), (0.75, None, "unbiased")):
        head, delta = case(10, 24, 40)
        wrapped = dbms.dbms(plain, lam=lam, eta=eta, rule=rule)
        enc = wrapped.encode({"w": delta})
        yield head | {
            "rule": rule, "lambda": enc["lam"], "eta": enc["eta"], "base_scale": enc["vector"]["w"]["scales"][0],
            "scale": enc["payload"]["w"]["scales"][0], "base_signs": packed(enc["vector"]["w"]["signs"]),
            "signs": packed(enc["payload"]["w"]["signs"]), "bits": wrapped.bits(enc),
        } | result(wrapped.decode(enc)["w"], delta)


def tiles(archive):
    """The tiles' payloads, in order: frames of FORMAT.md section 3 one after another, up to the first footer.

    A payload that does not get smaller is one raw block of its zstd frame, and those of a trellis do not.
    """
    at = 54
    while archive[at + 8 : at + 14] != b"DSFOOT":
        kind, raw, stored = archive[at + 12], *struct.unpack_from("<II", archive, at + 28)
        at += 48 + stored
        if kind == 1:
            assert int.from_bytes(archive[at - raw - 3 : at - raw], "little") == raw * 8 + 1, "no raw block"
            yield archive[at - raw : at]


def archive_of(program, seed, name, base, fine, rates):
    """What the program stores of one tensor with these rates, one or more a matrix."""
    with tempfile.TemporaryDirectory() as folder:
        for side, values in (("base", base), ("ft", fine)):
            (Path(folder) / side).mkdir()
            checkpoints.save({name: checkpoints.Tensor("F32", values)}, Path(folder) / side / "model.safetensors")
        matrices = [{"tensor": name, "matrix": i} | each for i, each in enumerate(rates)]
        plan = {"method": "auto", "plan": {"noise_level": 1e-7, "matrices": matrices}}
        (Path(folder) / "plan.json").write_text(json.dumps(plan))
        words = "compress --shards ft --base base -o a.delta.zst --plan plan.json -q --seed".split()
        subprocess.run([program, *words, str(seed)], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        return (Path(folder) / "a.delta.zst").read_bytes()


RATES = (
    *("1/32", "1/16", "1/8", "1/4", "1/2", "0.80", "1.05", "1.30", "1.55", "1.80", "2.04", "2.30"),
    *("2.55", "2.80", "3.05", "3.30", "3.55", "3.80", "4.05", "4.30", "4.55", "4.80", "5.05"),
)


def trellis_cases():
    """A stack of matrices of two rates each, all rates in all; a matrix with directions. Row 1 is the base's.

    `restored` is the tensor's bytes.
    """
    program = os.environ.get("DELTA_STREAM")
    stored = [] if program else json.loads((FOLDER / "trellis.json").read_text())["cases"]
    halves = [{"rate": RATES[i], "rows": 2, "rest": RATES[(i + 12) % 23]} for i in range(12)]
    i, j = np.mgrid[:16, :20]
    ridges = sum(np.cos((3 + k) * i + k) * np.cos((2 + k) * j) for k in range(2)) / 512
    for at, (seed, name, shape, extra, rates) in enumerate((
        (11, "layers.0.experts.up", (12, 4, 20), 0, halves),
        (12, "layers.0.a.weight", (1, 16, 20), ridges, [{"rate": "1.55", "rows": 7, "rest": "1/4"}]),
    )):
        count, rows, columns = shape
        base, fine = pair(seed, count * rows, columns)
        fine = (fine + extra).astype("f4")
        fine[1] = base[1]
        shape = shape[count == 1 :]
        if program:
            archive = archive_of(os.path.abspath(program), seed, name, base.reshape(shape), fine.reshape(shape), rates)
        else:
            archive = bytes.fromhex(stored[at]["archive"])
        key = generator.key(name, seed)
        deltas = [trellis.decode(tile, rows, columns, key, part * rows) for part, tile in enumerate(tiles(archive))]
        assert len(deltas) == count
        restored = trellis.add(base, np.concatenate(deltas)).astype("<f4").tobytes()
        yield {"seed": seed, "name": name, "shape": shape, "archive": archive.hex(), "restored": restored.hex()}


METHODS = {
    "delta_dct": delta_dct_cases, "bitdelta": bitdelta_cases, "dare": dare_cases,
    "deltadq": deltadq_cases, "ultradelta": ultradelta_cases, "dbms": dbms_cases,
    "trellis": trellis_cases,
}


def plain(x):
    """numpy to JSON; an f32 as the shortest decimal that reads back to it."""
    if isinstance(x, np.ndarray):
        return [plain(item) for item in x]
    if isinstance(x, np.float32):
        return float(str(x))
    return x.item()


def build(method):
    """One method's vectors, as the JSON would read back."""
    return json.loads(json.dumps({"method": method, "cases": list(METHODS[method]())}, default=plain))


def main():
    FOLDER.mkdir(exist_ok=True)
    for method in sys.argv[1:] or METHODS:
        path = FOLDER / f"{method}.json"
        path.write_text(json.dumps(build(method), separators=(",", ":")).replace('{"seed"', '\n{"seed"') + "\n")
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
