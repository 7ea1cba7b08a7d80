"""DARE (arXiv 2311.03099), after METHODS section 5.2: random drop, rescale."""
import numpy as np

import codec
import masks
from checkpoints import narrow, widen

WIDTH = {"F32": 32, "F16": 16, "BF16": 16}


def encode(delta, keep, value="F16"):
    """The surviving entries of D, not yet rescaled, as `value`; `keep` is the mask, True where an entry survives."""
    return {"keep": keep, "values": narrow(delta[keep], value)}


def decode(enc, drop):
    """METHODS section 5.2: survivors divided by 1 - p."""
    delta = np.zeros(enc["keep"].shape, "f8")
    delta[enc["keep"]] = widen(enc["values"]).astype("f8") / (1 - drop)
    return delta.astype("f4")


def bits(enc):
    """METHODS section 5.2: survivors only, since the mask is regenerated from its seed."""
    return enc["values"].data.size * WIDTH[enc["values"].dtype]


def dare(drop=0.9, value="F16", seed=0):
    """DARE as a codec of a whole model."""
    def drop_and_encode(name, delta):
        return encode(delta, masks.bernoulli(masks.keys(seed, name, delta.shape), drop), value)

    return codec.per_matrix(drop_and_encode, lambda enc: decode(enc, drop), bits)
