"""DBMS (arXiv 2505.11344), after METHODS section 2: any codec, against a base shifted along a base vector.

Everything below the framework of section 2.3 is engineering, not the paper: the base vector is the delta's own
(section 2.4, reading B), and the two scalars are tuned without data (section 2.6 i).
"""
import numpy as np

from codec import Codec

RATIO = (5**0.5 - 1) / 2


def dot(left, right):
    """<X, Y> over a whole model."""
    return sum(float((left[name].astype("f8") * right[name]).sum()) for name in left)


def shifted(deltas, vector, lam):
    """METHODS section 2.3: D_t = D0 - lambda v_hat."""
    return {name: delta - np.float32(lam) * vector[name] for name, delta in deltas.items()}


def best_eta(delta, decoded, rule="least_squares"):
    """METHODS sections 2.5 and 2.6 (i): eta* = <D, C(D)> / |C(D)|^2, or EVIDENCE 1's <D, D> / <D, C(D)>, in [0, 2]."""
    overlap = dot(delta, decoded)
    over, under = (overlap, dot(decoded, decoded)) if rule == "least_squares" else (dot(delta, delta), overlap)
    return min(max(over / under, 0.0), 2.0) if under > 0 else 1.0


def best_lambda(deltas, vector, inner, rule="least_squares", grid=11, steps=8):
    """METHODS section 2.6 (i): the lambda of least J = sum |D_t - eta C(D_t)|^2, eta in closed form for each.

    A grid over [0, 1.5] (section 2.5), then golden section between the neighbours of its best point.
    """
    tried = {}

    def objective(lam):
        delta = shifted(deltas, vector, lam)
        decoded = inner.decode(inner.encode(delta))
        eta = best_eta(delta, decoded, rule)
        tried[lam] = dot(delta, delta) - 2 * eta * dot(delta, decoded) + eta**2 * dot(decoded, decoded)
        return tried[lam]

    points = [1.5 * i / (grid - 1) for i in range(grid)]
    best = min(range(grid), key=lambda i: objective(points[i]))
    low, high = points[max(best - 1, 0)], points[min(best + 1, grid - 1)]
    left, right = high - RATIO * (high - low), low + RATIO * (high - low)
    at_left, at_right = objective(left), objective(right)
    for _ in range(steps - 2):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - RATIO * (high - low)
            at_left = objective(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + RATIO * (high - low)
            at_right = objective(right)
    return min(tried, key=tried.get)


def dbms(inner, base_codec=None, lam=None, eta=None, rule="least_squares"):
    """DBMS around the codec `inner`, with `base_codec` (by default `inner` again) for the base vector v_hat = C_b(D0).

    A scalar given is used as it is; one not given is tuned.
    """
    base_codec = base_codec or inner

    def encode(deltas):
        vector = base_codec.encode(deltas)
        direction = base_codec.decode(vector)
        shift = best_lambda(deltas, direction, inner, rule) if lam is None else lam
        residual = shifted(deltas, direction, shift)
        payload = inner.encode(residual)
        scale = best_eta(residual, inner.decode(payload), rule) if eta is None else eta
        return {"vector": vector, "payload": payload, "lam": np.float32(shift), "eta": np.float32(scale)}

    def decode(enc):
        """METHODS section 2.3: D_hat = lambda v_hat + eta C(D_t)."""
        direction, residual = base_codec.decode(enc["vector"]), inner.decode(enc["payload"])
        return {name: enc["lam"] * direction[name] + enc["eta"] * residual[name] for name in residual}

    def bits(enc):
        """METHODS section 2.9: both payloads and two f32."""
        return base_codec.bits(enc["vector"]) + inner.bits(enc["payload"]) + 64

    return Codec(encode, decode, bits)
