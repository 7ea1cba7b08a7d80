"""A variant put on a live torch model, in place, and taken off again."""

from __future__ import annotations

import sys
import weakref
from types import TracebackType
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Type, Union

import numpy as np
import torch

from ._archive import Reading, TensorInfo, Variant
from ._arrays import as_torch, torch_dtype
from ._errors import InvalidArgumentError
from ._progress import Progress, Shown, after

_loaded: "weakref.WeakKeyDictionary[Any, Loaded]" = weakref.WeakKeyDictionary()

# Integers of each width: bits are compared, so that a NaN equals itself and -0.0 not 0.0.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

_MOST_NAMED = 8


class _Piece(torch.Tensor):
    """A tensor of which parts stay parts: transformers' conversions copy each part that is not contiguous."""

    def contiguous(self, *_: Any, **__: Any) -> "_Piece":
        return self


def places(model: Any) -> Dict[str, torch.Tensor]:
    """The memory of a model by the names that its checkpoint has: parameters, buffers, and parts of them.

    What ``transformers`` would have to compute anew to save has no place.
    """
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    # Whoever has a model of transformers has imported it; for others it is not worth its seconds.
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return state
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        # Before version 5 models were stored as they are.
        return state
    memory = {value.untyped_storage().data_ptr() for value in state.values()}
    pieces = {name: value.detach().as_subclass(_Piece) for name, value in state.items()}
    found = {name: value.as_subclass(torch.Tensor) for name, value in revert_weight_conversion(model, pieces).items()}
    return {name: value for name, value in found.items() if value.untyped_storage().data_ptr() in memory}


def _names_of_tied(model: Any) -> "set[str]":
    """Names that stand for another's memory."""
    keys: Iterable[str] = getattr(model, "all_tied_weights_keys", None) or getattr(model, "_tied_weights_keys", None) or ()
    return set(keys)


def _find(there: Dict[str, torch.Tensor], prefix: str, name: str) -> Optional[torch.Tensor]:
    """The place of a tensor: also in the model inside the one that was saved, or in one around it."""
    found = there.get(name)
    if found is None and prefix:
        inside = name[len(prefix) + 1 :] if name.startswith(prefix + ".") else f"{prefix}.{name}"
        found = there.get(inside)
    return found


def _named(names: List[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _targets(variant: Variant, model: Any, strict: bool) -> Dict[str, torch.Tensor]:
    """Where each tensor of a variant goes, in its order; of tied ones the first name that is not tied to another.

    Raises:
        InvalidArgumentError: If something does not fit.
    """
    memory, prefix, tied = places(model), getattr(model, "base_model_prefix", ""), _names_of_tied(model)
    there = {name: place for name in variant.names if (place := _find(memory, prefix, name)) is not None}
    missing = [name for name in variant.names if name not in there]
    if missing and (strict or len(missing) == len(variant)):
        raise InvalidArgumentError(
            f"{type(model).__name__} has no place for {_named(missing)} of variant `{variant.name}`; strict=False "
            "leaves out what a model does not use"
        )
    found: Dict[str, torch.Tensor] = {}
    seen = set()
    for name, place in sorted(there.items(), key=lambda item: item[0] in tied):
        shape = variant.info(name).shape
        if tuple(place.shape) != shape:
            raise InvalidArgumentError(f"tensor {name} is {tuple(place.shape)} in the model, {shape} in the variant")
        if not _can_hold(place.dtype, torch_dtype(variant.info(name).dtype)):
            raise InvalidArgumentError(
                f"tensor {name} is {place.dtype} in the model, {variant.info(name).dtype} in the variant: a model that is "
                "quantised takes no variant"
            )
        if place.device.type == "meta":
            raise InvalidArgumentError(f"tensor {name} of the model is on the meta device: it has no memory")
        where = (place.device, place.data_ptr(), place.stride())
        if place.numel() > 0 and where not in seen:
            seen.add(where)
            found[name] = place
    return {name: found[name] for name in variant.names if name in found}


def _can_hold(place: Any, dtype: Any) -> bool:
    """Whether values of a dtype mean the same in a place of another: floats of some width do."""
    both = (place, dtype)
    return place == dtype or all(d.is_floating_point and d.itemsize > 1 for d in both)


def _same_bits(place: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether a place of a model has a value, once that has the place's dtype."""
    value = value.to(device=place.device, dtype=place.dtype)
    bits = _BITS.get(place.element_size())
    if bits is None or place.is_complex():
        place, value = torch.view_as_real(place), torch.view_as_real(value)
        bits = _BITS[place.element_size()]
    return bool(torch.equal(place.contiguous().view(bits), value.contiguous().view(bits)))


class _Scratch:
    """Memory that tensors are decoded into, one after the other."""

    def __init__(self, infos: Iterable[TensorInfo]) -> None:
        self.data = np.empty(max((info.nbytes for info in infos), default=0), dtype=np.uint8)

    def of(self, reading: Reading, info: TensorInfo, progress: Any) -> torch.Tensor:
        data = self.data[: info.nbytes]
        reading.read(info.name, data, progress)
        return as_torch(data, info.dtype, info.shape)

    def of_base(self, reading: Reading, name: str) -> torch.Tensor:
        info = reading.base_info(name)
        data = self.data[: info.nbytes]
        reading.read_base(name, data)
        return as_torch(data, info.dtype, info.shape)


class _Changed(NamedTuple):
    """A place of a model that a variant changed, and what was there: a copy, or a base that has it."""

    place: torch.Tensor
    before: Union[torch.Tensor, Reading]


class Loaded:
    """A variant that is on a model. As a context, it is taken off at the end."""

    def __init__(self, variant: Variant, model: Any) -> None:
        self._variant = variant
        self._model = weakref.ref(model)
        self._changed: Dict[str, _Changed] = {}

    @property
    def variant(self) -> Variant:
        """The variant."""
        return self._variant

    @property
    def names(self) -> List[str]:
        """Names of the tensors that it changed."""
        return list(self._changed)

    @property
    def copied(self) -> List[str]:
        """Of these, the names of those whose earlier values are copies in memory, since the base has others."""
        return [name for name, changed in self._changed.items() if isinstance(changed.before, torch.Tensor)]

    @property
    def is_loaded(self) -> bool:
        """Whether it still is on the model: it was not taken off, nor replaced by another."""
        model = self._model()
        return model is not None and _loaded.get(model) is self

    def unload(self) -> None:
        """Puts back what was there before, bit for bit. Does nothing if the variant is not on the model any more.

        Raises:
            IoError: If the base cannot be read any more, or was changed; calling again goes on.
        """
        if self.is_loaded:
            self._put_back(self.names)
            _loaded.pop(self._model(), None)

    def __enter__(self) -> "Loaded":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.unload()

    def __repr__(self) -> str:
        state = "loaded" if self.is_loaded else "not loaded"
        return f"<Loaded {self._variant.name!r}: {len(self._changed)} tensors changed, {state}>"

    def _put_back(self, names: List[str]) -> None:
        """Puts back some of what was there, and forgets it."""
        befores = [(name, self._changed[name].before) for name in names]
        infos = [before.base_info(name) for name, before in befores if isinstance(before, Reading)]
        scratch = _Scratch(infos)
        with torch.inference_mode():
            for name, before in befores:
                value = scratch.of_base(before, name) if isinstance(before, Reading) else before
                self._changed[name].place.copy_(value)
                del self._changed[name]


def loaded_on(model: Any) -> Optional[Loaded]:
    """What is on a model."""
    return _loaded.get(model)


def load(
    variant: Variant, model: Any, base: Any, strict: bool, check: bool, progress: Progress, options: str
) -> Loaded:
    """Puts a variant on a model: :meth:`Variant.load_into`."""
    targets = _targets(variant, model, strict)
    reading = Reading(variant, base, options)
    new, earlier = Loaded(variant, model), _loaded.get(model)
    with Shown(progress, variant.name) as call:
        try:
            _put(new, earlier, reading, targets, check, call)
        except BaseException:
            # What is neither of the two is put back as far as it can be.
            _loaded.pop(model, None)
            for loaded in (new, earlier):
                if loaded is not None:
                    loaded._put_back(loaded.names)
            raise
    _loaded[model] = new
    return new


def _put(
    new: Loaded,
    earlier: Optional[Loaded],
    reading: Reading,
    targets: Dict[str, torch.Tensor],
    check: bool,
    call: Optional[Callable[[int, int], object]],
) -> None:
    infos = [new.variant.info(name) for name in targets]
    in_base = [reading.base_info(info.name) for info in infos if info.name in reading.base_places]
    scratch = _Scratch([*infos, *in_base])
    if earlier is not None:
        # What only the one before changed.
        stays = {info.name for info in infos if not info.as_in_base}
        earlier._put_back([name for name in earlier.names if name not in stays])
    done, total = 0, sum(info.nbytes for info in infos)
    for info in infos:
        heard = after(call, done, total)
        with torch.inference_mode():
            _put_one(new, earlier, reading, info, targets[info.name], check, scratch, heard)
        done += info.nbytes
        if call is not None:
            call(done, total)


def _put_one(
    new: Loaded,
    earlier: Optional[Loaded],
    reading: Reading,
    info: TensorInfo,
    place: torch.Tensor,
    check: bool,
    scratch: _Scratch,
    heard: Optional[Callable[[int, int], object]],
) -> None:
    name = info.name
    if earlier is not None and name in earlier._changed:
        # What was there before that is what comes back.
        new._changed[name] = earlier._changed.pop(name)
    else:
        is_base = name in reading.base_places and reading.base_info(name).shape == tuple(place.shape)
        if is_base and check:
            is_base = _same_bits(place, scratch.of_base(reading, name))
        if is_base and info.as_in_base:
            return
        new._changed[name] = _Changed(place, reading if is_base else place.detach().to("cpu", copy=True))
    place.copy_(scratch.of(reading, info, heard))
