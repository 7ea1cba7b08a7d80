"""The steps that are measured on one model with one method."""
import filecmp
import shutil
from contextlib import nullcontext

from build import read_header
from drain import Drain
from measure import Failed
from models import one_tensor

STEPS = ("cat", "copy", "compress", "verify", "restore", "one tensor", "append")
COPY = 'for f in "$0"/*; do dd bs=1M status=none if="$f" of="$1/${f##*/}" || exit; done; sync "$1"/*'
UNCOMPARED = "with loss, so not compared; verify holds all tensors to their stored hashes"
# What a step's time is divided by.
YARDSTICKS = {"compress": "cat", "append": "cat", "verify": "cat", "restore": "copy"}


class Bench:
    """Runs steps on `dir`/base and /fine-tune; what they write lies in `dir` and is gone after each."""

    def __init__(self, program, threads, disk, group, directory, model):
        self.program, self.threads, self.disk, self.group = program, threads, disk, group
        self.model, self.dir = model, directory
        self.base, self.fine_tune = directory / "base", directory / "fine-tune"
        self.archive, self.out = directory / "archive.delta.zst", directory / "restored"
        self.notes, self.failed = [], []

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)

    def size(self, side):
        return sum(path.stat().st_size for path in side.glob("*.safetensors"))

    def verb(self, name, *options):
        memory = f"{self.group.limit >> 20}MiB"
        options = [*options, "--threads", str(self.threads), "--max-memory", memory, "--quiet"]
        return self.group.run([self.program, name, *options])

    def step(self, name, method):
        return getattr(self, name.replace(" ", "_"))(method)

    def cat(self, _):
        files = [sorted(side.glob("*.safetensors")) for side in (self.base, self.fine_tune)]
        return self.group.run(*(["cat", *f] for f in files))

    def copy(self, _):
        """Writes the base anew, file by file, and brings it to disk. Not with cat, which shares blocks instead."""
        self.out.mkdir()
        command = ["sh", "-c", COPY, self.base, self.out]
        return self.written("copy", self.base, True, lambda: self.group.run(command))

    def compress(self, method):
        return self.store("compress", method, "--output", self.archive, "--name", "first")

    def append(self, method):
        return self.store("append", method, "--archive", self.archive, "--name", "second")

    def store(self, verb, method, *options):
        return self.verb(verb, "--base", self.base, "--shards", self.fine_tune, "--method", method, *options)

    def verify(self, _):
        return self.verb("verify", self.archive, "--base", self.base)

    def restore(self, method):
        return self.written("restore", self.fine_tune, method == "lossless", self.restored)

    def restored(self, *options):
        options = ["--output", self.out, "--name", "first", *options]
        return self.verb("restore", self.archive, "--base", self.base, *options)

    def one_tensor(self, method):
        try:
            cost = self.restored("--tensor", one_tensor(self.model))
            if method == "lossless":
                self.check_tensor()
            return cost
        finally:
            shutil.rmtree(self.out, ignore_errors=True)

    def written(self, verb, source, same, run):
        """Runs what writes the files of `source` anew, bit for bit if `same`; compares and removes them."""
        fits = self.disk.free() > 1.1 * self.size(source)
        drain = nullcontext() if fits else Drain(self.output_files, source if same else None)
        try:
            with drain:
                cost = run()
            if not fits:
                self.check_drain(verb, drain, same)
            elif same:
                self.check_files(verb, source)
            else:
                self.note(f"{verb}: {UNCOMPARED}")
            return cost
        finally:
            shutil.rmtree(self.out, ignore_errors=True)

    def output_files(self):
        """Files being written: under the temporary name of the directory, or under its own."""
        partial = self.dir / f".{self.out.name}.partial"
        return [f for d in (partial, self.out) for f in d.glob("*.safetensors")]

    def check_files(self, verb, source):
        for path in source.glob("*.safetensors"):
            if not filecmp.cmp(path, self.out / path.name, shallow=False):
                raise Failed(f"{path.name} came out with other bytes")
        self.note(f"{verb}: all bytes are those of the {source.name}")

    def check_drain(self, verb, drain, same):
        if drain.error:
            raise drain.error
        if drain.differ:
            raise Failed(f"other bytes: {drain.differ[0]}, {len(drain.differ)} samples in all")
        compared = f"{drain.samples} samples of 1 MiB were the same" if same else UNCOMPARED
        self.note(f"{verb}: {drain.punched / 1e9:.1f} GB punched out behind the writer, {compared}")

    def check_tensor(self):
        """Holds the one restored tensor to the fine-tune's."""
        name = one_tensor(self.model)
        found = [find_tensor(side, name) for side in (self.out, self.fine_tune)]
        if found[0] != found[1]:
            raise Failed(f"{name} came out with other bytes")
        self.note(f"one tensor: all bytes of {name} are those of the fine-tune")


def find_tensor(directory, name):
    """The bytes of a tensor."""
    for path in directory.glob("*.safetensors"):
        start, entries = read_header(path)
        if name in entries:
            *_, begin, end = entries[name]
            with open(path, "rb") as f:
                f.seek(start + begin)
                return f.read(end - begin)
    raise Failed(f"{directory} has no tensor {name}")
