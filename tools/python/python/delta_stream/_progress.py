"""Progress that a person sees: a tqdm bar, in notebooks too, or a line where tqdm is not installed."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Callable, Optional, Type, Union

Progress = Union[None, bool, Callable[[int, int], object]]
"""``None`` or ``False`` for none, ``True`` for a bar, or a callable that takes bytes done and bytes in all."""


class _Line:
    """Tenths of the work, on one line of standard error."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.shown = -1

    def __call__(self, done: int, total: int) -> None:
        tenth = 10 * done // total if total else 10
        if tenth != self.shown:
            self.shown = tenth
            end = "\n" if tenth == 10 else ""
            print(f"\r{self.what} {10 * tenth:3d}%", end=end, file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


class _Bar:
    """A tqdm bar of bytes. A run of several passes may begin again."""

    def __init__(self, make: Any, what: str) -> None:
        self.bar = make(desc=what, unit="B", unit_scale=True, unit_divisor=1024, total=0)

    def __call__(self, done: int, total: int) -> None:
        if self.bar.total != total or done < self.bar.n:
            self.bar.reset(total)
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        self.bar.close()


class Shown:
    """A context that gives what is to be called with progress, or ``None``."""

    def __init__(self, progress: Progress, what: str) -> None:
        self._shown: Any = None
        self.call: Optional[Callable[[int, int], object]] = None
        if progress is True:
            try:
                from tqdm.auto import tqdm

                self._shown = _Bar(tqdm, what)
            except ImportError:
                self._shown = _Line(what)
            self.call = self._shown
        elif progress is not None and progress is not False:
            if not callable(progress):
                raise TypeError("progress is None, a bool, or a callable that takes bytes done and bytes in all")
            self.call = progress

    def __enter__(self) -> "Optional[Callable[[int, int], object]]":
        return self.call

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        if self._shown is not None:
            self._shown.close()


def after(
    call: Optional[Callable[[int, int], object]], before: int, total: int
) -> Optional[Callable[[int, int], object]]:
    """Progress of one tensor as that of all."""
    return None if call is None else lambda done, _: call(before + done, total)
