"""What can go wrong, by what can be done about it. The texts are the library's own, with keywords for its flags."""

from __future__ import annotations

import re

# Flags that errors speak of and that a verb has as a keyword; where nothing is said, the one with `_` for `-`.
_FLAGS = re.compile(
    r"(?<![\w-])--(force|resume|name|tensor|include|exclude|rest|calibrate|base-shift|lambda|eta-rule|eta|parity|method"
    r"|max-memory|max-shard-size|threads|io)(?![\w-])"
)
_KEYWORDS = {"force": "force=True", "resume": "resume=True", "tensor": "tensors", "lambda": "lambda_"}


def _in_keywords(text: str) -> str:
    def keyword(found: "re.Match[str]") -> str:
        flag = found.group(1)
        return _KEYWORDS.get(flag, flag.replace("-", "_"))

    return _FLAGS.sub(keyword, text)


class DeltaStreamError(Exception):
    """Any error of delta-stream."""

    def __init__(self, text: str = "") -> None:
        super().__init__(_in_keywords(text))


class InvalidArgumentError(DeltaStreamError, ValueError):
    """An argument is out of range or contradicts another; correct it and call again."""


class InvalidCheckpointError(DeltaStreamError):
    """A checkpoint is not what the safetensors format or its index promises."""


class CorruptError(DeltaStreamError):
    """The archive is damaged: a checksum, length or code is wrong."""


class TruncatedError(CorruptError):
    """The archive ends before its data does."""


class IncompatibleError(DeltaStreamError):
    """The archive was written by a newer delta-stream."""


class MismatchError(DeltaStreamError):
    """The base given is not the base the archive was made against."""


class IoError(DeltaStreamError, OSError):
    """The operating system refused a read, write or lock."""


class InterruptedRunError(DeltaStreamError):
    """The run was asked to stop, by something that raised no exception of its own."""
