"""BitDelta (arXiv 2402.10193) before distillation, after METHODS section 5.1; or with EVIDENCE's scale."""
import numpy as np

import codec


def encode(delta, planes=1, scale="mean"):
    """`planes` sign planes, each of the residual of those before it, and one f32 scale a plane.

    "mean", the paper's: a = mean |R|, the least-squares scale, with R the plane's input.
    "unbiased", EVIDENCE 1: the same planes times one gain, so that <D, D_hat> = <D, D>; for one plane the
    scale is then <D, D> / <D, sign D>.
    """
    residual = delta = delta.astype("f8")
    signs, scales = [], []
    for _ in range(planes):
        plane = residual >= 0  # as the official code: zero counts as positive
        signs.append(plane)
        scales.append(np.abs(residual).mean())
        residual = residual - np.where(plane, scales[-1], -scales[-1])
    overlap = (delta * (delta - residual)).sum()
    gain = (delta**2).sum() / overlap if scale == "unbiased" and overlap > 0 else 1.0
    return {"signs": np.array(signs), "scales": (np.array(scales) * gain).astype("f4")}


def decode(enc):
    """METHODS section 5.1: D_hat = sum of scale times sign over the planes."""
    scales = enc["scales"].astype("f8")[:, None, None]
    return np.where(enc["signs"], scales, -scales).sum(0).astype("f4")


def bits(enc):
    """One bit an entry and plane, and one f32 a plane."""
    return enc["signs"].size + 32 * enc["scales"].size


def bitdelta(planes=1, scale="mean"):
    """BitDelta as a codec of a whole model."""
    return codec.per_matrix(lambda _, delta: encode(delta, planes, scale), decode, bits)
