"""What a LoRA adapter makes of a base, by PEFT's documentation alone, held against a merged checkpoint.

    python3 adapter.py make BASE ADAPTER      writes an adapter of random factors for a base
    python3 adapter.py check BASE ADAPTER MERGED

W' = W + s B A with s = alpha / r, or alpha / sqrt(r) with use_rslora; (B A)^T where the weight lies as [in, out], and of
embeddings. `check` takes it in f64 and allows what sums in f32 and one rounding to the base's dtype may be off by.
Needs Python 3.11 and numpy.
"""
import json
import re
import sys
from pathlib import Path

import numpy as np

from checkpoints import Tensor, load, save, widen

CONFIG = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "rank_pattern": {"key": 4},
          "alpha_pattern": {"value": 5}, "fan_in_fan_out": False}
TARGET = re.compile(r"(query|key|value|[qkvo]_proj|dense|word_embeddings)\.weight$")
PREFIX = "base_model.model."
# Half a unit in the last place, of 1.
ROUNDING = {"F64": 2.0**-53, "F32": 2.0**-24, "F16": 2.0**-11, "BF16": 2.0**-8}
# Smallest step of values near zero.
LEAST = {"F64": 2.0**-1074, "F32": 2.0**-149, "F16": 2.0**-24, "BF16": 2.0**-133}


def wide(tensor):
    """A tensor's values in f64."""
    return tensor.data.astype("<f8") if tensor.dtype == "F64" else widen(tensor).astype("<f8")


def pattern(patterns, module, default):
    """The value of the first pattern that a module's name ends with, from a dot on."""
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module)), default)


def merge(base, adapter, config):
    """The merged weights by name, in f64, with the bound of each element's error."""
    out = {}
    for name, a in adapter.items():
        module, _, part = name.removeprefix(PREFIX).partition(".lora_")
        if not part:
            out[module] = (wide(a), 0.0)
        if not part.removeprefix("embedding_").startswith("A"):
            continue
        b = wide(adapter[re.sub("lora_(embedding_)?A", r"lora_\1B", name)])
        a, rank = wide(a), pattern(config.get("rank_pattern", {}), module, config["r"])
        alpha = pattern(config.get("alpha_pattern", {}), module, config["lora_alpha"])
        scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
        assert a.shape[0] == b.shape[1] == rank, name
        weight = base[module + ".weight"]
        change, size = b @ a, np.abs(b) @ np.abs(a)
        if part.startswith("embedding_") or config.get("fan_in_fan_out"):
            change, size = change.T, size.T
        # Each product, sum and the scaling round once.
        ulp = 2.0**-53 if weight.dtype == "F64" else 2.0**-24
        out[module + ".weight"] = (wide(weight) + scale * change, (2 * rank + 2) * ulp * scale * size)
    return out


def check(base, adapter, merged):
    """Names of tensors that are not as they must be, and how many there are."""
    config = json.loads((Path(adapter) / "adapter_config.json").read_text())
    base, merged = load(base), load(merged)
    want = merge(base, load(adapter), config)
    wrong = [] if base.keys() == merged.keys() else ["the list of tensors"]
    for name, tensor in base.items():
        got = merged[name]
        if got.dtype != tensor.dtype or got.data.shape != tensor.data.shape:
            wrong.append(name)
        elif name not in want:
            wrong += [name] * (got.data.tobytes() != tensor.data.tobytes())
        else:
            values, bound = want[name]
            bound = bound + ROUNDING[got.dtype] * 1.01 * np.abs(values) + LEAST[got.dtype]
            changed = np.any(got.data != tensor.data)
            wrong += [name] * (not changed or bool(np.any(np.abs(wide(got) - values) > bound)))
    return wrong, len(want)


def make(base, adapter, seed=0, config=CONFIG):
    """Writes an adapter with random factors for the layers of a base."""
    random, tensors = np.random.default_rng(seed), {}
    for name, weight in load(base).items():
        if not TARGET.search(name) or weight.data.ndim != 2 or weight.dtype not in ROUNDING:
            continue
        module = name.removesuffix(".weight")
        rank = pattern(config["rank_pattern"], module, config["r"])
        # An embedding has its inputs first.
        of_embedding = module.endswith("embeddings")
        n_out, n_in = weight.data.shape[::-1] if of_embedding else weight.data.shape
        kind = ("embedding_A", "embedding_B") if of_embedding else ("A.weight", "B.weight")
        for part, shape in zip(kind, ((rank, n_in), (n_out, rank))):
            tensors[f"{PREFIX}{module}.lora_{part}"] = Tensor("F32", random.normal(0, 0.02, shape).astype("<f4"))
    adapter = Path(adapter)
    adapter.mkdir(parents=True)
    save(tensors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps(config))


def main(words):
    if words[:1] == ["make"] and len(words) == 3:
        make(*words[1:])
    elif words[:1] == ["check"] and len(words) == 4:
        wrong, n = check(*words[1:])
        print(f"{n} merged tensors, {len(wrong)} not as they must be" + "".join(f"\n{name}" for name in wrong))
        return 1 if wrong or not n else 0
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
