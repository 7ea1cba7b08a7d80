"""What every method is to the outside: three functions over a whole model's deltas."""
from typing import Callable, NamedTuple


class Codec(NamedTuple):
    """A lossy codec of a model: {name: D} -> payload, payload -> {name: D_hat}, payload -> honest bits."""

    encode: Callable
    decode: Callable
    bits: Callable


def per_matrix(encode, decode, bits):
    """The codec that treats every matrix alone; `encode` takes the matrix's name as well, for its random keys."""
    return Codec(
        lambda deltas: {name: encode(name, delta) for name, delta in deltas.items()},
        lambda payload: {name: decode(enc) for name, enc in payload.items()},
        lambda payload: sum(bits(enc) for enc in payload.values()),
    )
