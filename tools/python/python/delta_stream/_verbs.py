"""The verbs of the command line: what they take and report is the same."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, Iterable, Optional

from . import _native
from ._archive import Archive
from ._errors import DeltaStreamError
from ._options import Options, Path, Percent, Settings, Size, as_json, percent, size
from ._progress import Progress, Shown

if TYPE_CHECKING:
    from typing_extensions import Unpack


def open(path: Path) -> Archive:
    """Opens an archive.

    Raises:
        CorruptError: If it is no archive, or damaged.
        IncompatibleError: If a newer delta-stream wrote it.
        IoError: If it cannot be read.
    """
    return Archive(path)


def compress(
    shards: Path,
    base: Path,
    output: Path,
    *,
    name: Optional[str] = None,
    method: str = "auto",
    base_shift: Optional[Path] = None,
    lambda_: Optional[float] = None,
    eta: Optional[float] = None,
    eta_rule: Optional[str] = None,
    include: Optional[str] = None,
    exclude: Optional[str] = None,
    rest: Optional[str] = None,
    calibrate: Optional[Path] = None,
    seed: int = 0,
    force: bool = False,
    resume: bool = False,
    parity: Optional[Percent] = None,
    max_memory: Optional[Size] = None,
    threads: Optional[int] = None,
    io: Optional[str] = None,
    progress: Progress = None,
    **settings: Unpack[Settings],
) -> Dict[str, Any]:
    """Stores the fine-tune ``shards`` as a delta against ``base`` in a new archive.

    Args:
        shards, base: Checkpoints: a Hugging Face directory, one ``.safetensors`` file, an ``index.json``, or the name
            of a model in the Hub's local cache; ``shards`` also the directory of a LoRA adapter. The
            two may be sharded differently.
        output: The archive, which must not exist (but with ``force``).
        name: The variant's name; default: that of the fine-tune's directory.
        method: ``"auto"``, ``"delta-dct"``, ``"bitdelta"``, ``"deltadq"``, ``"ultradelta"``, ``"dare"`` or
            ``"lossless"``.
        **settings: The method's own, as on the command line with ``_`` for ``-``. ``auto`` takes one of
            ``bits=0.25`` (a parameter), ``ratio=30``, ``max_size="2GB"`` and ``quality="high"`` (or ``"medium"``,
            ``"small"``). The others: ``patch``, ``allocation``, ``rescale``; ``scale``, ``bit_planes``;
            ``alpha``, ``group``, ``bits``, ``index``, ``parts``; ``bits``, ``sparsity``, ``step``, ``rates``,
            ``clamp``, ``trace_reference``, ``trace_of``, ``gamma_floor``; ``sparsity``.
        base_shift: ``"own"``, ``"shared"`` or a checkpoint: shifts the base first, with ``lambda_`` and ``eta``
            where they are given, and ``eta_rule`` ``"unbiased"`` or ``"least-squares"``.
        include, exclude: Regular expressions: which tensors may lose something.
        rest: ``"keep"`` (default) keeps the others bit for bit, ``"base"`` drops them to the base's values.
        calibrate: A safetensors file of second moments of the layers' inputs.
        seed: Of whatever is drawn.
        force: Whether an archive at ``output`` may be replaced.
        resume: Whether to go on with what a run that was cut off left, and to leave it if this one is.
        parity: Percent of the archive that is written beside it as parity, 0.1 to 100, as in ``2`` or ``"2%"``.
        max_memory: Most bytes of memory, as a number or as in ``"512MiB"``. Default 512 MiB.
        threads: Worker threads; they never change what is written. Default: one a core.
        io: ``"read"`` (default) or ``"direct"``, past the system's cache.
        progress: ``True`` for a bar (``tqdm`` where it is installed, in notebooks too), or a callable that takes
            bytes done and bytes in all, some twenty times a second. An exception that it raises ends the run.

    Returns:
        What ``delta-stream compress --json`` prints: ``"ratio"``, ``"archive_bytes"``, ``"bits_per_parameter"``,
        ``"relative_error"``, ``"notes"`` and others.

    Raises:
        InvalidArgumentError: If ``output`` exists, or an option is out of range.
        InvalidCheckpointError: If an input is broken.
        IoError: If something cannot be read or written. Nothing is left at ``output`` then, nor after
            ``KeyboardInterrupt`` or what ``progress`` raised, unless that came with the last bytes.
    """
    given: Dict[str, Any] = dict(
        name=name,
        method=method,
        base_shift=base_shift,
        lambda_=lambda_,
        eta=eta,
        eta_rule=eta_rule,
        include=include,
        exclude=exclude,
        rest=rest,
        calibrate=calibrate,
        seed=seed,
        resume=resume,
        parity=parity,
        **settings,
    )
    return _store(False, force, (shards, base, output), given, progress, (max_memory, threads, io))


def append(
    shards: Path,
    base: Path,
    archive: Path,
    *,
    name: Optional[str] = None,
    method: str = "auto",
    progress: Progress = None,
    max_memory: Optional[Size] = None,
    threads: Optional[int] = None,
    io: Optional[str] = None,
    **options: Unpack[Options],
) -> Dict[str, Any]:
    """Adds the fine-tune ``shards`` to an archive that there is. Options, report and errors are those of
    :func:`compress`, but for ``force``, which means nothing here.

    Raises:
        InvalidArgumentError: Also if the archive has a variant of this name.
        CorruptError: If the archive is damaged. It keeps what it has, whatever fails.
    """
    given: Dict[str, Any] = dict(name=name, method=method, **options)
    return _store(True, False, (shards, base, archive), given, progress, (max_memory, threads, io))


# What is not the method's own.
_GENERAL = frozenset(Options.__annotations__) - frozenset(Settings.__annotations__) | {"name", "method"}


def _store(
    appends: bool, force: bool, paths: Any, given: Dict[str, Any], progress: Progress, use: Any
) -> Dict[str, Any]:
    general: Dict[str, Any] = {"seed": 0, "resume": False, "force": force}
    settings: Dict[str, Any] = {}
    for key, value in given.items():
        if key in _GENERAL:
            general[key.rstrip("_")] = percent(value) if key == "parity" else value
        else:
            # Held to what the method has by the compiled part.
            settings[key] = size(value) if key == "max_size" else value
    if settings.get("trace_reference") is not None:
        settings["trace_reference"] = str(settings["trace_reference"])
    text = as_json(*use, settings=settings, **general)
    paths = tuple(os.fspath(path) for path in paths)
    with Shown(progress, "append" if appends else "compress") as call:
        return _native.compress(paths, text, appends, call)


def restore(
    archive: Path,
    base: Path,
    output: Path,
    *,
    name: Optional[str] = None,
    tensors: Iterable[str] = (),
    max_shard_size: Optional[Size] = None,
    force: bool = False,
    resume: bool = False,
    max_memory: Optional[Size] = None,
    threads: Optional[int] = None,
    io: Optional[str] = None,
    progress: Progress = None,
) -> Dict[str, Any]:
    """Writes a variant as a checkpoint that ``from_pretrained`` loads.

    Args:
        archive: The archive.
        base: The checkpoint the variant was made against.
        output: The directory, which must not exist or be empty (but with ``force``).
        name: The variant; needed if there are several.
        tensors: Globs of names; a selection is written as a checkpoint of its own. Default: all.
        max_shard_size: Most bytes of tensors a shard, as a number or as in ``"5GB"``. Default: the fine-tune's own
            shards, byte for byte.
        force, resume, max_memory, threads, io, progress: As for :func:`compress`.

    Returns:
        What ``delta-stream restore --json`` prints: ``"variant"``, ``"files"``, ``"restored_bytes"`` and others.

    Raises:
        MismatchError: If ``base`` is another base.
        CorruptError: If the archive is damaged.
        InvalidArgumentError: If there is no such variant or tensor, or ``output`` is not empty.
        IoError: If something cannot be read or written. Nothing is left at ``output`` then.
    """
    text = as_json(
        max_memory,
        threads,
        io,
        name=name,
        tensors=[tensors] if isinstance(tensors, str) else list(tensors),
        max_shard_size=size(max_shard_size),
        force=force,
        resume=resume,
    )
    paths = (os.fspath(archive), os.fspath(base), os.fspath(output))
    with Shown(progress, "restore") as call:
        return _native.restore(paths, text, call)


def unload(model: Any) -> None:
    """Takes the variant off a model that :meth:`Variant.load_into` put on it: what was there before is back, bit
    for bit. A model without one stays as it is.

    Raises:
        IoError: If the base cannot be read any more, or was changed.
    """
    try:
        from ._model import loaded_on
    except ImportError as error:
        raise DeltaStreamError("torch is not installed, so no model has a variant") from error
    loaded = loaded_on(model)
    if loaded is not None:
        loaded.unload()
