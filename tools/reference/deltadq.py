"""DeltaDQ (arXiv 2410.08666), after METHODS section 3: group-wise dropout, then separate quantisation."""
import numpy as np

import codec
import masks


def default_group(alpha):
    """METHODS section 3.4 G4, the data-free fallback."""
    return 16 if alpha <= 16 else alpha


def encode(delta, keep, alpha=8, k=4):
    """METHODS section 3.4 G3, section 3.5 Q1; `keep` is the mask of G2. Codes are of the survivors, in row-major order.

    The zero point may lie outside 0 .. 2^k - 1, since the bounds are the survivors' own. Survivors that are all
    equal, to v, have no range: they get the scale v and the zero point -1, which decodes them exactly.
    """
    survivors = delta[keep].astype("f8") * alpha
    low, high, top = survivors.min(), survivors.max(), 2**k - 1
    scale = np.float32((high - low) / top)
    if scale == 0:
        scale, zero, codes = np.float32(low), -1, np.zeros(len(survivors), "i8")
    else:
        zero = int(np.rint(-low / np.float64(scale)))
        codes = np.clip(np.rint(survivors / np.float64(scale)).astype("i8") + zero, 0, top)
    return {"keep": keep, "codes": codes.astype("u2"), "scale": scale, "zero": zero, "k": k}


def decode(enc):
    """METHODS section 3.5 Q3 with one part: s (Q - z), and zero where dropped."""
    return join(enc, split(enc, 1))


def split(enc, m):
    """METHODS section 3.5 Q2: m parts by value range, each (mask, low-bit codes q = Q - j w of its entries)."""
    width = 2 ** enc["k"] // m
    part = enc["codes"] // width
    out = []
    for j in range(m):
        mask = np.zeros_like(enc["keep"])
        mask[enc["keep"]] = part == j
        out.append((mask, enc["codes"][part == j] - j * width))
    return out


def join(enc, parts):
    """METHODS section 3.5 Q3: s (q + j w - z), parts summed."""
    width = 2 ** enc["k"] // len(parts)
    delta = np.zeros(enc["keep"].shape, "f8")
    for j, (mask, q) in enumerate(parts):
        delta[mask] = np.float64(enc["scale"]) * (q.astype("i8") + j * width - enc["zero"])
    return delta.astype("f4")


def bits(enc, index="seed", m=1, group=16):
    """METHODS section 3.7, with f32 s and i32 z.

    "seed": codes alone. "ingroup": ceil(log2 h_g) bits of position a survivor. "csr": m parts, each with 16-bit
    columns, k - log2 m bits a value, and a 32-bit row offset a row and one more.
    """
    survivors, k = len(enc["codes"]), enc["k"]
    if index == "seed":
        return survivors * k + 64
    if index == "ingroup":
        return survivors * (k + (group - 1).bit_length()) + 64
    return survivors * (16 + k - (m.bit_length() - 1)) + m * 32 * (len(enc["keep"]) + 1) + 64


def deltadq(alpha=8, group=None, k=4, index="seed", m=1, seed=0):
    """DeltaDQ as a codec of a whole model."""
    group = group or default_group(alpha)
    if group % alpha:
        raise ValueError(f"group {group} is no multiple of alpha {alpha}")

    def drop_and_encode(name, delta):
        keep = masks.grouped(masks.keys(seed, name, delta.shape), group, group // alpha)
        return encode(delta, keep, alpha, k)

    return codec.per_matrix(drop_and_encode, decode, lambda enc: bits(enc, index, m, group))
