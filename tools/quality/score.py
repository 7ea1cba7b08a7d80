#!/usr/bin/env python3
"""How far a restored fine-tune is from the original on some rows of a task: one number, lower is better.

    score.py YARDSTICK.py ORIGINAL_DIR --rows FIRST-LAST RESTORED_DIR

Made for `--tune command:'score.py ... --rows 301-400'`: the directory comes last, and the rows can be others than those
that judge the result. YARDSTICK is `rxnfp_quality.py` (its model, tokens and rows); the number is its `kl`.
"""
import argparse, csv, importlib.util, json
from pathlib import Path

import numpy as np


def yardstick(path):
    spec = importlib.util.spec_from_file_location("yardstick", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sequences(y, first, last):
    """Token ids of rows `first` to `last`, counted from 1."""
    vocab = {line.rstrip("\n"): i for i, line in enumerate(open(y.HERE / "rxnfp-base" / "vocab.txt"))}
    rows = list(csv.DictReader(open(y.HERE / "rxnfp-eval" / "schneider_labelled_1743.csv")))[first - 1 : last]
    ids = lambda text: [vocab.get(token, vocab["[UNK]"]) for token in y.TOKEN.findall(text)][:510]
    return [[vocab["[CLS]"], *ids(row["smiles"]), vocab["[SEP]"]] for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("yardstick", type=Path)
    parser.add_argument("original")
    parser.add_argument("restored")
    parser.add_argument("--rows", required=True)
    args = parser.parse_args()
    y = yardstick(args.yardstick)
    first, last = map(int, args.rows.split("-"))
    config = json.load(open(y.HERE / "rxnfp-ft10k" / "config.json"))
    seqs = sequences(y, first, last)
    original, restored = (y.log_softmax(y.classify(d, config, seqs)) for d in (args.original, args.restored))
    print((np.exp(original) * (original - restored)).sum(1).mean())


if __name__ == "__main__":
    main()
