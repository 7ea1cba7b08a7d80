"""Archives, their variants, and the tensors of these."""

from __future__ import annotations

import os
import threading
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from . import _native
from ._arrays import as_numpy, as_torch
from ._errors import InvalidArgumentError
from ._options import Path, Size, resources
from ._progress import Progress, Shown, after


class TensorInfo(NamedTuple):
    """What a tensor of a variant is, without its values."""

    name: str
    """Its name in the checkpoint."""
    dtype: str
    """Its dtype, as safetensors spells it: ``"F32"``, ``"BF16"``, ``"F8_E4M3"``."""
    shape: Tuple[int, ...]
    """Its shape, outermost dimension first; ``()`` for a scalar."""
    nbytes: int
    """Bytes of its values."""
    as_in_base: bool
    """Whether it restores to the very bits that the base has under its name."""


class Reading:
    """A variant with one base, open."""

    def __init__(self, variant: "Variant", base: Path, options: str) -> None:
        self.variant = variant
        self.base = os.fspath(base)
        self.options = options
        self.reader = variant._native.on(self.base, options)
        listed = self.reader.base_tensors()
        self.base_places = {name: i for i, (name, _, _, _) in enumerate(listed)}
        self.base_infos = [TensorInfo(*described, True) for described in listed]

    def read(
        self, name: str, out: "np.ndarray[Any, np.dtype[np.uint8]]", progress: Optional[Callable[[int, int], object]]
    ) -> None:
        """Decodes a tensor into bytes."""
        self.reader.read(self.variant._place(name), out, progress)

    def read_base(self, name: str, out: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        """Copies a tensor of the base into bytes."""
        self.reader.read_base(self.base_places[name], out)

    def base_info(self, name: str) -> TensorInfo:
        """What the base has under a name, if it is one of `base_places`."""
        return self.base_infos[self.base_places[name]]


class Archive:
    """An archive, as :func:`delta_stream.open` found it.

    Nothing of it is kept in memory but what it says of itself.
    """

    def __init__(self, path: Path) -> None:
        self._path = os.fspath(path)
        self._metadata = _native.inspect(self._path)

    @property
    def path(self) -> str:
        """Where it is."""
        return self._path

    @property
    def variants(self) -> List[str]:
        """Names of its variants, oldest first."""
        return [variant["name"] for variant in self._metadata["variants"]]

    @property
    def metadata(self) -> Dict[str, Any]:
        """What ``delta-stream inspect --json`` says: sizes, and of each variant its method, settings, ratio and
        error. A dict of plain values."""
        return self._metadata

    def variant(self, name: Optional[str] = None) -> "Variant":
        """The variant called ``name``, or the only one.

        Raises:
            InvalidArgumentError: If there is no such variant, or none is named and there are several.
            CorruptError: If its records are damaged.
        """
        return Variant(self._path, name)

    def __len__(self) -> int:
        return len(self._metadata["variants"])

    def __iter__(self) -> "Iterator[Variant]":
        return (self.variant(name) for name in self.variants)

    def __repr__(self) -> str:
        return f"<Archive {self._path!r}: {', '.join(self.variants) or 'no variants'}>"


class Variant:
    """One fine-tune of an archive. Its tensors are decoded when they are asked for, against a base: the path of
    the checkpoint it was made against (a directory, one ``.safetensors`` file or an ``index.json``)."""

    def __init__(self, archive: Path, name: Optional[str] = None) -> None:
        self._path = os.fspath(archive)
        self._native = _native.Variant(self._path, name)
        listed = zip(self._native.tensors(), self._native.as_in_base())
        self._infos = [TensorInfo(*described, as_in_base) for described, as_in_base in listed]
        self._places = {info.name: i for i, info in enumerate(self._infos)}
        # The base that a tensor was last asked for on.
        self._last: Optional[Reading] = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Its name."""
        return self._native.name

    @property
    def metadata(self) -> Dict[str, Any]:
        """What ``delta-stream inspect --json`` says of it: method, settings, sizes, error, names of side files."""
        (found,) = _native.inspect(self._path, self.name)["variants"]
        assert isinstance(found, dict)
        return found

    @property
    def names(self) -> List[str]:
        """Names of its tensors, in file order."""
        return [info.name for info in self._infos]

    @property
    def infos(self) -> List[TensorInfo]:
        """Its tensors without their values, in file order."""
        return list(self._infos)

    def info(self, name: str) -> TensorInfo:
        """What the tensor ``name`` is.

        Raises:
            InvalidArgumentError: If it has no such tensor.
        """
        return self._infos[self._place(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._infos)

    def __repr__(self) -> str:
        return f"<Variant {self.name!r} of {self._path!r}: {len(self)} tensors>"

    def tensors(
        self,
        base: Path,
        *,
        framework: str = "numpy",
        names: Optional[Iterable[str]] = None,
        progress: Progress = None,
        max_memory: Optional[Size] = None,
        threads: Optional[int] = None,
        io: Optional[str] = None,
    ) -> Iterator[Tuple[str, Any]]:
        """Its tensors on ``base``, one by one: each is decoded when the iterator comes to it, and belongs to the
        caller alone. Other Python threads run meanwhile.

        Args:
            base: The checkpoint it was made against.
            framework: ``"numpy"`` for ``numpy.ndarray``, ``"torch"`` for ``torch.Tensor`` on the CPU. Either way
                the memory that was decoded into is what is returned.
            names: Which tensors, in this order. Default: all, in file order.
            progress: ``True`` for a bar, or a callable that takes bytes done and bytes in all.
            max_memory: Most bytes for the decoding, as a number or as in ``"512MiB"``; the arrays themselves are
                not counted. Default 512 MiB.
            threads: Threads that decode. Default: one a core.
            io: ``"read"`` (default) or ``"direct"``, past the system's cache.

        Yields:
            Pairs of a name and an array of the tensor's shape: ``()`` for a scalar. Without ``ml_dtypes`` NumPy
            has no BF16 and no F8: the array then has the same bits as ``uint16`` or ``uint8``, and
            ``array.dtype.metadata["safetensors"]`` says ``"BF16"``.

        Raises:
            MismatchError: If ``base`` is another base; at the first tensor, or at the one whose bytes differ.
            CorruptError: If the archive is damaged.
            InvalidArgumentError: If there is no such tensor, framework or option.
            IoError: If something cannot be read.
        """
        convert = _converter(framework)
        wanted = [self.info(name) for name in names] if names is not None else list(self._infos)
        options = resources(max_memory, threads, io)
        return self._each(base, options, wanted, convert, progress)

    def _each(
        self, base: Path, options: str, wanted: Sequence[TensorInfo], convert: Any, progress: Progress
    ) -> Iterator[Tuple[str, Any]]:
        reading = Reading(self, base, options)
        before, total = 0, sum(info.nbytes for info in wanted)
        with Shown(progress, self.name) as call:
            for info in wanted:
                heard = after(call, before, total)
                yield info.name, _decode(reading, info, convert, heard)
                before += info.nbytes

    def tensor(self, base: Path, name: str, *, framework: str = "numpy") -> Any:
        """One tensor on ``base``; as an item of :meth:`tensors`. The base stays open for the next call.

        Raises:
            As :meth:`tensors`.
        """
        convert, info = _converter(framework), self.info(name)
        with self._lock:
            reading, self._last = self._last, None
        if reading is None or reading.base != os.fspath(base):
            reading = Reading(self, base, resources(None, None, None))
        decoded = _decode(reading, info, convert, None)
        # Not if it failed: the base may have been replaced, and is then opened anew.
        self._last = reading
        return decoded

    def load_into(
        self,
        model: Any,
        base: Path,
        *,
        strict: bool = True,
        check: bool = True,
        progress: Progress = None,
        max_memory: Optional[Size] = None,
        threads: Optional[int] = None,
        io: Optional[str] = None,
    ) -> Any:
        """Makes a live ``torch`` model, which holds ``base``, this variant: its parameters and buffers are
        overwritten where they are, on whatever device and in whatever float dtype they are.

        A model has one variant at a time. Loading another replaces it, at the cost of what the two change; only
        tensors that differ from the base are decoded. If anything fails the model holds the base again.

        Names are those of the checkpoint: what ``transformers`` stores otherwise than it computes (experts as
        one stacked parameter, other prefixes) is found through its own conversions.

        Args:
            model: A ``torch.nn.Module``, of ``transformers`` or not.
            base: The checkpoint the variant was made against.
            strict: Whether every tensor of the variant must have a place in the model. A checkpoint may have
                some that a model does not use; ``False`` leaves these out.
            check: Whether the model's values are held to the base first. What the base does not have so, as a
                new head, is copied to memory and put back from there. ``False`` trusts that the model holds the
                base: a load is then quicker.
            progress: ``True`` for a bar, or a callable that takes bytes done and bytes in all.
            max_memory, threads, io: As for :meth:`tensors`.

        Returns:
            Loaded: What is loaded: ``unload()`` puts back what was there, bit for bit, and so does the end of a
            ``with`` block.

        Raises:
            InvalidArgumentError: If a tensor has no place in the model (with ``strict``) or another shape there.
            MismatchError, CorruptError, IoError: As for :meth:`tensors`.
        """
        from ._model import load

        return load(self, model, base, strict, check, progress, resources(max_memory, threads, io))

    def _place(self, name: str) -> int:
        try:
            return self._places[name]
        except KeyError:
            raise InvalidArgumentError(f"variant `{self.name}` has no tensor {name}") from None


def _decode(reading: Reading, info: TensorInfo, convert: Any, progress: Any) -> Any:
    data = np.empty(info.nbytes, dtype=np.uint8)
    reading.read(info.name, data, progress)
    return convert(data, info.dtype, info.shape)


def _converter(framework: str) -> Any:
    if framework == "numpy":
        return as_numpy
    if framework == "torch":
        try:
            import torch  # noqa: F401
        except ImportError as error:
            raise InvalidArgumentError("framework torch is not installed; numpy is") from error
        return as_torch
    raise InvalidArgumentError(f"there is no framework {framework!r}; there are numpy and torch")
