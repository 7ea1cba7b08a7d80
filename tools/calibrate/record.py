#!/usr/bin/env python3
"""Second moments of the inputs of a model's linear layers, for `delta-stream --calibrate`.

    record.py MODEL_DIR -o FILE (--text FILE | --tokens FILE | --random-tokens N) [--full]

MODEL_DIR is a Hugging Face directory with safetensors weights. The input is one sequence a line: text, which
the model's own tokenizer cuts, or JSON lists of token ids; or N tokens drawn at random. The file gets, for the
weight [out, in] of every torch.nn.Linear that was reached, a tensor of the weight's name in MODEL_DIR: the mean of
x_j^2 [in], or with --full the mean of x x^T [in, in], over all tokens x that the layer saw.

Needs numpy; torch and transformers to run a model.
"""
import argparse, json, re, struct, sys
from pathlib import Path

import numpy as np


def shapes(directory):
    """Name and shape of every tensor in a directory's safetensors files, from their headers."""
    out = {}
    for path in sorted(Path(directory).glob("*.safetensors")):
        with open(path, "rb") as file:
            (n,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(n))
        header.pop("__metadata__", None)
        out.update((name, tuple(t["shape"])) for name, t in header.items())
    if not out:
        sys.exit(f"{directory} holds no .safetensors file; convert the weights first")
    return out


def stored_name(module, shape, stored, prefix):
    """What the weight of `module` is called in the checkpoint, which may have been saved from a model with a head
    or without one: the base model's prefix is on either side, or on none. None if nothing of this shape fits."""
    name = module + ".weight"
    candidates = [name]
    if prefix:
        candidates += [f"{prefix}.{name}", name.removeprefix(prefix + ".")]
    return next((c for c in candidates if stored.get(c) == tuple(shape)), None)


class Moments:
    """Running second moments of one layer's inputs, in f64."""

    def __init__(self, width, full):
        self.sum, self.count = np.zeros((width, width) if full else width), 0

    def add(self, x):
        """Adds the rows of x, [.., in]."""
        x = np.asarray(x, "f8").reshape(-1, self.sum.shape[-1])
        self.sum += x.T @ x if self.sum.ndim == 2 else (x * x).sum(0)
        self.count += len(x)

    def mean(self):
        return (self.sum / self.count).astype("<f4")


def write(path, arrays, metadata):
    """Writes f32 arrays as one safetensors file."""
    header, at = {"__metadata__": metadata}, 0
    for name, x in arrays.items():
        header[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for x in arrays.values():
            file.write(np.ascontiguousarray(x, "<f4").tobytes())


def load(directory, class_name):
    """The model, of the class asked for or the one that its configuration names."""
    import torch, transformers

    if class_name is None:
        named = json.loads((Path(directory) / "config.json").read_text()).get("architectures") or ["AutoModel"]
        class_name = named[0]
    found = getattr(transformers, class_name, None)
    if found is None:
        sys.exit(f"transformers has no {class_name}; name one with --class, such as AutoModelForCausalLM")
    # A head of another size than the configuration's does not matter here.
    model = found.from_pretrained(directory, dtype=torch.float32, ignore_mismatched_sizes=True)
    return model.eval()


def hook(model, stored, full, include):
    """Moments by stored name, filled whenever the model runs; and the layers that are left out, with the reason."""
    import torch

    moments, left_out = {}, []
    prefix = getattr(model, "base_model_prefix", "")
    for name, module in model.named_modules():
        if type(module).__name__ == "Conv1D":
            left_out.append((name, "Conv1D keeps its weight as [in, out]"))
        if not isinstance(module, torch.nn.Linear) or not re.search(include, name):
            continue
        key = stored_name(name, module.weight.shape, stored, prefix)
        if key is None:
            left_out.append((name, "no tensor of this name and shape in the checkpoint"))
            continue
        moments[key] = Moments(module.in_features, full)

        def add(_, inputs, key=key):
            moments[key].add(inputs[0].detach().double().cpu().numpy())

        module.register_forward_pre_hook(add)
    return moments, left_out


def sequences(args, vocabulary):
    """Lists of token ids."""
    if args.random_tokens:
        random = np.random.default_rng(args.seed)
        ids = random.integers(0, vocabulary, args.random_tokens).tolist()
        return [ids[i : i + args.length] for i in range(0, len(ids), args.length)]
    lines = [line for line in Path(args.text or args.tokens).read_text().splitlines() if line.strip()]
    if args.tokens:
        return [json.loads(line)[: args.length] for line in lines]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    return [tokenizer(line, truncation=True, max_length=args.length)["input_ids"] for line in lines]


def record(args):
    import torch

    stored = shapes(args.model)
    if Path(args.output).resolve().parent == Path(args.model).resolve():
        sys.exit(f"{args.output} would lie among the model's weights; choose another place")
    model = load(args.model, args.class_name).to(args.device)
    moments, left_out = hook(model, stored, args.full, args.include)
    n_tokens = 0
    for ids in sequences(args, model.config.vocab_size):
        # One at a time: padding would count as input.
        with torch.inference_mode():
            model(input_ids=torch.tensor([ids], device=args.device))
        n_tokens += len(ids)
    left_out += [(name, "the model never used it") for name, m in moments.items() if not m.count]
    for name, why in left_out:
        print(f"left out: {name}: {why}", file=sys.stderr)
    means = {name: m.mean() for name, m in moments.items() if m.count}
    if not means:
        sys.exit("no linear layer was reached")
    kind = "full" if args.full else "diagonal"
    metadata = {"moments": kind, "tokens": str(n_tokens), "model": Path(args.model).resolve().name}
    write(args.output, means, metadata)
    print(f"{args.output}: {kind} moments of {len(means)} layers over {n_tokens} tokens")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("-o", "--output", required=True, metavar="FILE")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", metavar="FILE", help="one text a line")
    source.add_argument("--tokens", metavar="FILE", help="one JSON list of token ids a line")
    source.add_argument("--random-tokens", type=int, metavar="N", help="N tokens drawn evenly: a poor stand-in for text")
    parser.add_argument("--seed", type=int, default=0, help="of --random-tokens (default 0)")
    parser.add_argument("--length", type=int, default=512, help="most tokens a sequence (default 512)")
    parser.add_argument("--full", action="store_true", help="mean of x x^T instead of its diagonal")
    parser.add_argument("--include", default="", metavar="REGEX", help="only modules whose names match")
    parser.add_argument("--class", dest="class_name", metavar="NAME", help="class of transformers to load with")
    parser.add_argument("--device", default="cpu", help="where the model runs (default cpu)")
    record(parser.parse_args(argv))


if __name__ == "__main__":
    main()
