"""Options of the verbs, as the compiled part takes them."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Dict, Optional, TypedDict, Union

from ._errors import InvalidArgumentError

Size = Union[int, str]
"""Bytes: a number, or text with a unit, as in ``"2GB"`` or ``"512MiB"``."""

Path = Union[str, "os.PathLike[str]"]
"""A place in the file system."""


Percent = Union[float, str]
"""Percent: a number, or text as in ``"2%"``."""


class Settings(TypedDict, total=False):
    """What methods have of their own; one that belongs to another method is refused.

    ``auto`` takes one of the first four, ``delta-dct`` ``patch`` to ``rescale``, ``bitdelta`` ``scale`` and
    ``bit_planes``, ``deltadq`` ``bits`` and ``alpha`` to ``parts``, ``ultradelta`` ``bits``, ``sparsity`` and ``step`` to
    ``gamma_floor``, ``dare`` ``sparsity``.
    """

    bits: float
    ratio: float
    max_size: Size
    quality: str
    patch: int
    allocation: str
    rescale: bool
    scale: str
    bit_planes: int
    alpha: int
    group: int
    index: str
    parts: int
    sparsity: float
    step: float
    rates: str
    clamp: bool
    trace_reference: Union[str, float]
    trace_of: str
    gamma_floor: float


class Options(Settings, total=False):
    """The same, and what :func:`delta_stream.compress` takes beside it."""

    base_shift: Path
    lambda_: float
    eta: float
    eta_rule: str
    include: str
    exclude: str
    rest: str
    calibrate: Path
    seed: int
    resume: bool
    parity: Percent


_UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000**i for i, letter in enumerate("KMGT", 1)},
    **{f"{letter}IB": 1024**i for i, letter in enumerate("KMGT", 1)},
}


def size(given: Optional[Size]) -> Optional[int]:
    """Bytes of a size.

    Raises:
        InvalidArgumentError: If it is none.
    """
    if given is None or isinstance(given, int):
        return given
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(given))
    unit = _UNITS.get(found.group(2).upper()) if found else None
    if found is None or unit is None:
        raise InvalidArgumentError(f"{given!r} is no size; one is a number of bytes, or as in '512MiB' or '5GB'")
    return int(float(found.group(1)) * unit)


def percent(given: Optional[Percent]) -> Optional[float]:
    """Percent as a number.

    Raises:
        InvalidArgumentError: If it is none.
    """
    if not isinstance(given, str):
        return given
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%?\s*", given)
    if found is None:
        raise InvalidArgumentError(f"{given!r} is no percentage; one is a number, or as in '2%'")
    return float(found.group(1))


def _resources(max_memory: Optional[Size], threads: Optional[int], io: Optional[str]) -> Dict[str, Any]:
    if isinstance(threads, int) and threads < 1:
        raise InvalidArgumentError(f"threads is {threads}; at least one has to work")
    return {"max_memory": size(max_memory), "threads": threads, "io": io}


def resources(max_memory: Optional[Size], threads: Optional[int], io: Optional[str]) -> str:
    """What a run may use."""
    return json.dumps(_resources(max_memory, threads, io))


def as_json(max_memory: Optional[Size], threads: Optional[int], io: Optional[str], **given: Any) -> str:
    """All options of a verb; paths become text."""
    return json.dumps({**given, "resources": _resources(max_memory, threads, io)}, default=os.fspath)
