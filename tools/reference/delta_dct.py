"""Delta-DCT (arXiv 2503.06676), after METHODS section 1: no data, no randomness.

Arithmetic is f64 on an f32 delta, so that a code differs from an f32 implementation's only at a near tie.
"""
import numpy as np

import codec

MAIN = ((2, 0.5), (0, 0.5))


def dct_matrix(p):
    """METHODS section 1.5: the orthonormal DCT-II, row u, column j."""
    u, j = np.mgrid[:p, :p]
    matrix = np.sqrt(2 / p) * np.cos(np.pi * (2 * j + 1) * u / (2 * p))
    matrix[0] = np.sqrt(1 / p)
    return matrix


def patchify(delta, p):
    """METHODS section 1.3 E2: [m, n] -> [K, p, p] in row-major patch order, zero-padded at the bottom and right."""
    m, n = delta.shape
    padded = np.pad(delta, ((0, -m % p), (0, -n % p)))
    tiled = padded.reshape(padded.shape[0] // p, p, padded.shape[1] // p, p)
    return tiled.swapaxes(1, 2).reshape(-1, p, p)


def unpatchify(patches, shape):
    """METHODS section 1.4 D3: patches back to a matrix, padding cropped."""
    p = patches.shape[1]
    rows, columns = (-(-side // p) for side in shape)
    return patches.reshape(rows, columns, p, p).swapaxes(1, 2).reshape(rows * p, -1)[: shape[0], : shape[1]]


def classify(patches, allocation):
    """METHODS section 1.3 E3, E4: each patch's class, an index into `allocation` (bits, share), most bits first.

    Patches are ranked by energy within the matrix, ties by patch index. Every class takes round(K share) of
    them, half to even; the last, which has the fewest bits, takes whatever is left.
    """
    energy = (patches**2).sum((1, 2))
    order = np.argsort(-energy, kind="stable")
    classes = np.full(len(patches), len(allocation) - 1, "u1")
    start = 0
    for index, (_, share) in enumerate(allocation[:-1]):
        stop = start + round(len(patches) * share)
        classes[order[start:stop]] = index
        start = stop
    return classes


def outward(low, high):
    """METHODS section 1.8: the bounds in f16, the lower rounded down and the upper up."""
    lo, hi = low.astype("f2"), high.astype("f2")
    lo = np.where(lo > low, np.nextafter(lo, np.float16(-np.inf)), lo)
    hi = np.where(hi < high, np.nextafter(hi, np.float16(np.inf)), hi)
    if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
        raise ValueError("a DCT coefficient is outside the range of f16")
    return lo, hi


def levels(classes, allocation):
    """L = 2^B - 1 of each patch; 0 for a patch of zero bits."""
    return np.array([2**bits - 1 for bits, _ in allocation], "f8")[classes]


def scaled(coefficients, lo, hi, top):
    """METHODS section 1.3 E6 before rounding: coefficients [K, p p] on the scale 0 .. L, 0 where hi equals lo."""
    lo, span = lo.astype("f8")[:, None], (hi.astype("f8") - lo)[:, None]
    return np.where(span > 0, (coefficients - lo) / np.where(span > 0, span, 1) * top[:, None], 0)


def transform(patches):
    """METHODS section 1.3 E5: Y = T X T^t, as [K, p p]."""
    basis = dct_matrix(patches.shape[1])
    return (basis @ patches @ basis.T).reshape(len(patches), -1)


def encode(delta, p=16, allocation=MAIN):
    """METHODS section 1.3. `codes` is [K, p p] with zeros for 0-bit patches; `lo`, `hi` are f16, zero there too."""
    allocation = sorted(allocation, reverse=True)
    patches = patchify(delta.astype("f8"), p)
    classes = classify(patches, allocation)
    top = levels(classes, allocation)
    coefficients = np.where(top[:, None] > 0, transform(patches), 0)
    lo, hi = outward(coefficients.min(1), coefficients.max(1))
    return {
        "shape": delta.shape, "p": p, "allocation": allocation, "classes": classes, "lo": lo, "hi": hi,
        "codes": np.rint(scaled(coefficients, lo, hi, top)).astype("u2"),
        "mu": np.float32(np.abs(delta.astype("f8")).mean()),  # E8
    }


def decode(enc, rescale=True):
    """METHODS section 1.4 D1 to D4; a 0-bit patch decodes to zeros (section 1.3 E7)."""
    p, top = enc["p"], levels(enc["classes"], enc["allocation"])[:, None]
    lo, hi = (enc[bound].astype("f8")[:, None] for bound in ("lo", "hi"))
    coefficients = (enc["codes"] / np.maximum(top, 1) * (hi - lo) + lo).reshape(-1, p, p)
    basis = dct_matrix(p)
    delta = unpatchify(basis.T @ coefficients @ basis, enc["shape"])
    size = np.abs(delta).mean()
    if rescale and size > 0:
        delta = delta * (enc["mu"] / size)
    return delta.astype("f4")


def bits(enc):
    """METHODS sections 1.7 and 1.8: codes, two f16 for every kept patch, whole-bit class map, and mu."""
    width = np.array([bits for bits, _ in enc["allocation"]])[enc["classes"]]
    class_map = len(width) * (len(enc["allocation"]) - 1).bit_length()
    return int(width.sum() * enc["p"] ** 2 + 32 * (width > 0).sum() + class_map + 32)


def delta_dct(p=16, allocation=MAIN, rescale=True):
    """Delta-DCT as a codec of a whole model."""
    return codec.per_matrix(lambda _, delta: encode(delta, p, allocation), lambda enc: decode(enc, rescale), bits)
