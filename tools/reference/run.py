#!/usr/bin/env python3
"""Apply one method to a checkpoint pair: run.py METHOD --base DIR --ft DIR -o OUT [options].

Writes OUT/model.safetensors, the fine-tune as the method leaves it, beside a copy of the fine-tune's other
files, and prints one JSON line. Bits count everything the method stores, per compressed parameter
(METHODS section 0.3); relative_error is sum |D - D_hat|^2 / sum |D|^2 over all compressed tensors.
A method's options are the keyword arguments of its codec: see run.py METHOD --help.
"""
import argparse
import inspect
import json
import shutil
from pathlib import Path

import checkpoints
from bitdelta import bitdelta
from dare import dare
from dbms import dbms
from delta_dct import delta_dct
from deltadq import deltadq
from ultradelta import ultradelta

METHODS = {method.__name__: method for method in (delta_dct, bitdelta, dare, deltadq, ultradelta, dbms)}


def option(text):
    """A JSON value, an allocation such as 2:0.5,0:0.5, or a plain word."""
    if ":" in text:
        return [[int(bits), float(share)] for bits, share in (part.split(":") for part in text.split(","))]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parse():
    """The command line, with one subcommand a method."""
    pair = argparse.ArgumentParser(add_help=False)
    pair.add_argument("--base", required=True, metavar="DIR", type=Path)
    pair.add_argument("--ft", required=True, metavar="DIR", type=Path)
    pair.add_argument("-o", "--out", required=True, metavar="OUT", type=Path)
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="method", required=True, metavar="METHOD")
    for name, method in METHODS.items():
        command = commands.add_parser(name, parents=[pair], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        for parameter in inspect.signature(method).parameters.values():
            default = "bitdelta" if parameter.default is parameter.empty else parameter.default
            command.add_argument(f"--{parameter.name.replace('_', '-')}", type=option, default=default, help=" ")
    return top.parse_args()


def build(method, settings):
    """The codec; DBMS's own two are named by their methods, at the defaults."""
    named = {key: METHODS[value]() for key, value in settings.items() if method == "dbms" and value in METHODS}
    return METHODS[method](**(settings | named))


def relative_error(deltas, decoded):
    """|D - D_hat|^2 / |D|^2 over a whole model."""
    noise = sum(float(((deltas[name].astype("f8") - decoded[name]) ** 2).sum()) for name in deltas)
    return noise / sum(float((delta.astype("f8") ** 2).sum()) for delta in deltas.values())


def main():
    settings = vars(parse())
    method, base_dir, fine_dir, out = (settings.pop(key) for key in ("method", "base", "ft", "out"))
    codec = build(method, settings)
    base, fine = checkpoints.load(base_dir), checkpoints.load(fine_dir)
    deltas = checkpoints.deltas(base, fine)
    payload = codec.encode(deltas)
    decoded = codec.decode(payload)

    out.mkdir(parents=True, exist_ok=True)
    checkpoints.save(checkpoints.restore(base, fine, decoded), out / "model.safetensors")
    for path in fine_dir.iterdir():
        if path.is_file() and not path.name.endswith((".safetensors", ".safetensors.index.json")):
            shutil.copyfile(path, out / path.name)
    parameters = sum(delta.size for delta in deltas.values())
    print(json.dumps({
        "method": method, "settings": settings, "bits_per_parameter": round(codec.bits(payload) / parameters, 5),
        "relative_error": round(relative_error(deltas, decoded), 5), "tensors": len(checkpoints.lossy(base, fine)),
    }))


if __name__ == "__main__":
    main()
