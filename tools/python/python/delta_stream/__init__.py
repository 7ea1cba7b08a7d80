"""Fine-tuned checkpoints as compressed deltas against their base, many in one archive.

>>> import delta_stream as ds
>>> ds.compress("fine-tune", "base", "models.delta.zst", name="chat", progress=True)
>>> variant = ds.open("models.delta.zst").variant("chat")
>>> for name, array in variant.tensors("base"):      # decoded one by one
...     print(name, array.shape)
>>> with variant.load_into(model, "base"):           # in place; the base is back after it
...     model.generate(...)

All that takes long runs without the interpreter's lock, and ends at Ctrl-C. Errors are
:class:`DeltaStreamError` and its children, with the texts of the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._archive import Archive, TensorInfo, Variant
from ._errors import (
    CorruptError,
    DeltaStreamError,
    IncompatibleError,
    InterruptedRunError,
    InvalidArgumentError,
    InvalidCheckpointError,
    IoError,
    MismatchError,
    TruncatedError,
)
from ._native import __VERSION__ as __version__
from ._verbs import append, compress, open, restore, unload

if TYPE_CHECKING:
    from ._model import Loaded

__all__ = [
    "Archive",
    "CorruptError",
    "DeltaStreamError",
    "IncompatibleError",
    "InterruptedRunError",
    "InvalidArgumentError",
    "InvalidCheckpointError",
    "IoError",
    "Loaded",
    "MismatchError",
    "TensorInfo",
    "TruncatedError",
    "Variant",
    "__version__",
    "append",
    "compress",
    "open",
    "restore",
    "unload",
]


def __getattr__(name: str) -> Any:
    # It needs torch, which the rest does not.
    if name == "Loaded":
        from ._model import Loaded

        return Loaded
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
