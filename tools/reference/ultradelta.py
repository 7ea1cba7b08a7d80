"""UltraDelta (arXiv 2505.13563), after METHODS section 4: the official code's behaviour, with seeds.

The pipeline sees the whole model: quantise all, allot sparsity, prune, rescale, trace norm (METHODS section 4.7).
"""
import numpy as np

import masks
from codec import Codec

GOLDEN = (1 + 5**0.5) / 2


def quantise(delta, b=4):
    """METHODS section 4.3: affine min-max over all entries."""
    low, high, top = delta.min(), delta.max(), 2**b - 1
    span = np.float64(high) - low
    codes = np.rint((delta.astype("f8") - low) / span * top) if span > 0 else np.zeros(delta.shape)
    return {"codes": codes.astype("u2"), "min": low, "max": high, "b": b}


def values(enc):
    """METHODS section 4.3: x' = q / 15 (max - min) + min, dense."""
    low = np.float64(enc["min"])
    return enc["codes"] / (2 ** enc["b"] - 1) * (enc["max"] - low) + low


def allot(quantised, target, step, compat_clamp=True):
    """METHODS section 4.2 M1 to M3: {name: rate} from {name: dense quantised delta}; ties of std in the order given."""
    if target + step > 1:
        raise ValueError(f"sparsity {target} plus step {step} is above 1")
    total = sum(x.size for x in quantised.values())
    rates, rest, seen = {}, [], 0
    for name in sorted(quantised, key=lambda name: quantised[name].std()):
        seen += quantised[name].size
        if seen <= total / 3:
            rates[name] = target + step
        elif seen <= 2 * total / 3:
            rates[name] = target
        else:
            rest.append(name)
    low = sum(quantised[name].size for name, rate in rates.items() if rate > target)
    last = target - step * low / sum(quantised[name].size for name in rest)  # the largest std is always here
    if compat_clamp:
        last = min(max(last, 0.0), 0.99)
    return rates | dict.fromkeys(rest, last)


def prune(enc, rate, keys):
    """METHODS section 4.4: the mask of survivors; entries whose level is exactly zero never survive."""
    zero = values(enc) == 0
    share = zero.mean()
    if share == 1:
        return ~zero
    return masks.by_value(keys, enc["codes"], max((rate - share) / (1 - share), 0.0)) & ~zero


def gamma(trace, reference=None):
    """METHODS section 4.5, our form: clamp(T_ref / T, 0.5, 1); 1 with no reference."""
    return 1.0 if reference is None or trace == 0 else min(max(reference / trace, 0.5), 1.0)


def decode(enc, keep, target, gamma=1.0):
    """METHODS sections 4.1 and 4.5: gamma / (1 - s) times the survivors, s the global target."""
    return (np.where(keep, values(enc), 0) * (gamma / (1 - target))).astype("f4")


def bits(enc, keep):
    """METHODS section 4.9: Rice-coded zero runs, b-bit codes, min and max; k_r from the tensor's own sparsity."""
    survivors = np.flatnonzero(keep)
    runs = np.diff(survivors, prepend=-1) - 1
    s = 1 - len(survivors) / keep.size
    k = max(1 + int(np.floor(np.log2(np.log(GOLDEN - 1) / np.log(s)))), 0) if 0 < s < 1 else 0
    return int((runs >> k).sum() + len(runs) * (k + 1 + enc["b"]) + 64)


def ultradelta(target=0.95, step=0.01, b=4, compat_clamp=True, trace_ref=None, seed=0):
    """UltraDelta as a codec of a whole model. `step` 0 is the uniform rate."""
    def encode(deltas):
        quantised = {name: quantise(delta, b) for name, delta in deltas.items()}
        rates = allot({name: values(enc) for name, enc in quantised.items()}, target, step, compat_clamp)
        pruned = {
            name: (enc, prune(enc, rates[name], masks.keys(seed, name, enc["codes"].shape)))
            for name, enc in quantised.items()
        }
        if trace_ref is None:
            return pruned, 1.0
        trace = sum(np.linalg.svd(decode(*pair, target), compute_uv=False).sum() for pair in pruned.values())
        return pruned, gamma(trace, trace_ref)

    return Codec(
        encode,
        lambda payload: {name: decode(*pair, target, payload[1]) for name, pair in payload[0].items()},
        lambda payload: sum(bits(*pair) for pair in payload[0].values()) + 32,
    )
