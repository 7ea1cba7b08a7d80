#!/usr/bin/env python3
"""BitDelta, DARE and UltraDelta over whole tensors in PyTorch, as research scripts do them, but saved packed.

    torch_methods.py METHOD compress BASE_FILE FINE_TUNE_FILE OUT [--threads 2] [--include PATTERN]
    torch_methods.py METHOD restore BASE_FILE OUT RESTORED_FILE [--threads 2]

Both models are loaded whole. The steps are those of the papers and of their authors' code (BitDelta: Liu et al. 2024,
signs and mean |D| a matrix, no distillation; DARE: Yu et al. 2024; UltraDelta: Wang et al. 2025, one model, so its
gamma is 1). DARE and UltraDelta were never given a file format: here a bit for each place, and the survivors. The
linear layers inside blocks are compressed, or what matches a pattern, and the rest is saved as it is, which is what
delta-stream does.
"""
import argparse, re

import torch
from safetensors.torch import load_file, save_file

SPARSITY, ULTRA_SPARSITY, ULTRA_STEP, LEVELS = 0.9, 0.95, 0.01, 15
BLOCK, NOT_LINEAR = re.compile(r"(^|\.)\d+\."), re.compile(r"norm|embed|\bln_", re.IGNORECASE)


def linear(name, include):
    if include:
        return bool(re.search(include, name))
    return name.endswith("weight") and bool(BLOCK.search(name)) and not NOT_LINEAR.search(name)


def packed(bits):
    """Booleans as bytes of eight."""
    flat = bits.flatten()
    flat = torch.nn.functional.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    return (flat.to(torch.uint8) << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def unpacked(packed_bits, shape):
    bits = packed_bits.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten()[: shape.numel()].view(shape).bool()


class BitDelta:
    def compress(self, deltas):
        return {name: {"scale": d.abs().mean(), "signs": packed(d >= 0)} for name, d in deltas.items()}

    def delta(self, stored, like):
        return torch.where(unpacked(stored["signs"], like.shape), stored["scale"], -stored["scale"])


class Dare:
    def compress(self, deltas):
        return {name: self.survivors(d) for name, d in deltas.items()}

    def survivors(self, delta):
        kept = torch.bernoulli(torch.full_like(delta, 1 - SPARSITY)).bool()
        return {"kept": packed(kept), "values": delta[kept].bfloat16()}

    def delta(self, stored, like):
        out = torch.zeros(like.shape)
        out[unpacked(stored["kept"], like.shape)] = stored["values"].float() / (1 - SPARSITY)
        return out


class UltraDelta:
    def compress(self, deltas):
        quantised = {name: self.quantise(d) for name, d in deltas.items()}
        rates = self.rates({name: (self.values(q), q["codes"].numel()) for name, q in quantised.items()})
        return {name: self.prune(q, rates[name]) for name, q in quantised.items()}

    def quantise(self, delta):
        low, high = delta.min(), delta.max()
        step = (high - low).clamp_min(torch.finfo(torch.float32).tiny) / LEVELS
        return {"low": low, "step": step, "codes": ((delta - low) / step).round().to(torch.uint8)}

    def values(self, q):
        return (q["low"] + q["codes"].float() * q["step"]).std(correction=0)

    def rates(self, of):
        """Thirds of the parameters by deviation: target + step, target, and what makes the mean the target."""
        total, seen, low, middle, rates = sum(n for _, n in of.values()), 0, 0, 0, {}
        for name, (_, n) in sorted(of.items(), key=lambda item: item[1][0]):
            seen += n
            if seen <= total / 3:
                rates[name], low = ULTRA_SPARSITY + ULTRA_STEP, low + n
            elif seen <= 2 * total / 3:
                rates[name], middle = ULTRA_SPARSITY, middle + n
        rest = max(0.0, min(0.99, ULTRA_SPARSITY - ULTRA_STEP * low / (total - low - middle)))
        return {name: rates.get(name, rest) for name in of}

    def prune(self, q, rate):
        """Of every code's places a share `rate` is dropped at random."""
        flat = q["codes"].flatten()
        kept = torch.ones(flat.numel(), dtype=torch.bool)
        for code in flat.unique():
            places = (flat == code).nonzero().squeeze(1)
            drop = torch.randperm(len(places))[: round(len(places) * rate)]
            kept[places[drop]] = False
        codes = flat[kept]
        codes = torch.nn.functional.pad(codes, (0, codes.numel() % 2)).view(-1, 2)
        return {"low": q["low"], "step": q["step"], "kept": packed(kept), "codes": codes[:, 0] | codes[:, 1] << 4}

    def delta(self, stored, like):
        kept = unpacked(stored["kept"], like.shape)
        codes = torch.stack([stored["codes"] & 15, stored["codes"] >> 4], 1).flatten()[: int(kept.sum())]
        out = torch.zeros(like.shape)
        out[kept] = (stored["low"] + codes.float() * stored["step"]) / (1 - ULTRA_SPARSITY)
        return out


METHODS = {"bitdelta": BitDelta(), "dare": Dare(), "ultradelta": UltraDelta()}


def compress(method, base_file, fine_tune_file, out, include):
    base, fine_tune = load_file(base_file), load_file(fine_tune_file)
    deltas = {name: t.float() - base[name].float() for name, t in fine_tune.items()
              if t.dim() == 2 and t.is_floating_point() and linear(name, include) and name in base
              and base[name].shape == t.shape}
    rest = {name: t for name, t in fine_tune.items() if name not in deltas}
    torch.save({"delta": method.compress(deltas), "rest": rest}, out)


def restore(method, base_file, out, restored_file, _include):
    base, stored = load_file(base_file), torch.load(out)
    model = dict(stored["rest"])
    for name, delta in stored["delta"].items():
        model[name] = (base[name].float() + method.delta(delta, base[name])).to(base[name].dtype)
    save_file(model, restored_file, metadata={"format": "pt"})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("verb", choices=("compress", "restore"))
    parser.add_argument("files", nargs=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--include")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    {"compress": compress, "restore": restore}[args.verb](METHODS[args.method], *args.files, args.include)


if __name__ == "__main__":
    main()
