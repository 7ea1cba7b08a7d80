"""Options of the verbs, as the compiled part takes them."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Dict, Optional, Union

from ._errors import InvalidArgumentError

Size = Union[int, str]
"""Bytes: a number, or text with a unit, as in ``"2GB"`` or ``"512MiB"``."""

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


def _resources(max_memory: Optional[Size], threads: Optional[int], io: Optional[str]) -> Dict[str, Any]:
    return {"max_memory": size(max_memory), "threads": threads, "io": io}


def resources(max_memory: Optional[Size], threads: Optional[int], io: Optional[str]) -> str:
    """What a run may use."""
    return json.dumps(_resources(max_memory, threads, io))


def options(max_memory: Optional[Size], threads: Optional[int], io: Optional[str], **given: Any) -> str:
    """All options of a verb; paths become text."""
    for key, value in given.items():
        if isinstance(value, os.PathLike):
            given[key] = os.fspath(value)
    return json.dumps({**given, "resources": _resources(max_memory, threads, io)})
