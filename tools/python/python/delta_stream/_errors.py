"""What can go wrong, by what can be done about it. The texts are the library's own."""

from __future__ import annotations


class DeltaStreamError(Exception):
    """Any error of delta-stream."""


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
