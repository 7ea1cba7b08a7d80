#!/usr/bin/env python3
"""Rivals that are Python libraries without a command, called as their documentation does.

    libraries.py KIND compress BASE_DIR FINE_TUNE_DIR OUT THREADS DTYPE
    libraries.py KIND restore BASE_DIR OUT RESTORED_FILE THREADS DTYPE

Runs under the rivals' Python. Only the library asked for is imported.
"""
import sys
from pathlib import Path

NAME = "model.safetensors"


class Z4ai:
    """Two buffers in, one out."""

    def compress(self, base, fine_tune, out, threads, _dtype):
        from z4ai import model_delta

        target, reference = (fine_tune / NAME).read_bytes(), (base / NAME).read_bytes()
        out.write_bytes(model_delta.compress(target, reference, threads=threads))

    def restore(self, base, out, restored, _threads, _dtype):
        from z4ai import model_delta

        restored.write_bytes(model_delta.decompress(out.read_bytes(), (base / NAME).read_bytes()))


class Zipnn:
    """The codec over the file's bytes, as its scripts for files do, told the right type of number."""

    def codec(self, threads, dtype):
        from zipnn import ZipNN

        names = {"F32": "float32", "BF16": "bfloat16"}
        return ZipNN(method="HUFFMAN", bytearray_dtype=names[dtype], threads=threads, **self.more())

    def more(self):
        return {}

    def second(self, _base):
        return {}

    def compress(self, base, fine_tune, out, threads, dtype):
        data = (fine_tune / NAME).read_bytes()
        out.write_bytes(self.codec(threads, dtype).compress(data, **self.second(base)))

    def restore(self, base, out, restored, threads, dtype):
        restored.write_bytes(self.codec(threads, dtype).decompress(out.read_bytes(), **self.second(base)))


class ZipnnDelta(Zipnn):
    """Both files' bytes, as its delta script does: they have to be of one length."""

    def more(self):
        return {"delta_compressed_type": "file"}

    def second(self, base):
        return {"delta_second_data": str(base / NAME)}


class Deltatensors:
    """Restores into arrays, which are saved with the library that the others use."""

    def __init__(self, strategy, **settings):
        self.strategy, self.settings = strategy, settings

    def compress(self, base, fine_tune, out, _threads, _dtype):
        import deltatensors

        deltatensors.save_delta_from_paths(out, fine_tune, base, strategy=self.strategy, **self.settings)

    def restore(self, base, out, restored, _threads, _dtype):
        import deltatensors
        from safetensors.numpy import save_file

        save_file(deltatensors.load_delta_from_paths(out, base), restored)


KINDS = {
    "z4ai": Z4ai(),
    "zipnn": Zipnn(),
    "zipnn-delta": ZipnnDelta(),
    "deltatensors-quantized": Deltatensors("quantized"),
    "deltatensors-int4": Deltatensors("int4"),
    "deltatensors-sparse": Deltatensors("sparse", sparsity=0.9),
}


def main():
    kind, verb, *paths, threads, dtype = sys.argv[1:]
    getattr(KINDS[kind], verb)(*map(Path, paths), int(threads), dtype)


if __name__ == "__main__":
    main()
