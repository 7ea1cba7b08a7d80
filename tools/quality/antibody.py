"""The encoder and decoder of ANARCII in NumPy, and what a restored fine-tune errs at its layers' outputs.

The shape is that of the authors' model (github.com/oxpig/ANARCII, src/anarcii/inference/model.py): layers of
torch.nn.MultiheadAttention and a ReLU block, each followed by a sum and a norm. Computes in f32.
"""
import json
from pathlib import Path

import numpy as np

SEQUENCES, LENGTH, PAD = 64, 96, 0


class Model:
    """Runs one fine-tune and keeps, for each linear layer, which inputs its rows met.

    `inputs` maps the name of a weight [out, in] to a list of (rows, x): a slice of its rows, and what these rows were
    multiplied with, [tokens, in]. A layer that attends to the encoder has two such blocks.
    """

    def __init__(self, tensors, heads):
        self.t, self.heads, self.inputs = tensors, heads, {}

    def linear(self, name, x, rows=slice(None), bias=None):
        weight = self.t[name]
        self.inputs.setdefault(name, []).append((rows, x.reshape(-1, weight.shape[1])))
        return x @ weight[rows].T + self.t[bias or name.replace("weight", "bias")][rows]

    def norm(self, name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(1e-5))
        return x * self.t[name + ".weight"] + self.t[name + ".bias"]

    def attention(self, name, query, memory, causal):
        """`query` [batch, q, width] looks at `memory` [batch, k, width]."""
        (batch, length, width), name = query.shape, name + ".multihead_attn"
        weight, bias = name + ".in_proj_weight", name + ".in_proj_bias"
        if query is memory:
            q, k, v = np.split(self.linear(weight, query, bias=bias), 3, -1)
        else:
            q = self.linear(weight, query, slice(0, width), bias)
            k, v = np.split(self.linear(weight, memory, slice(width, 3 * width), bias), 2, -1)
        q, k, v = (x.reshape(batch, -1, self.heads, width // self.heads).swapaxes(1, 2) for x in (q, k, v))
        scores = q @ k.swapaxes(2, 3) / np.float32(np.sqrt(width // self.heads))
        if causal:
            scores = np.where(np.tri(length, dtype=bool), scores, np.float32(-1e9))
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (shares / shares.sum(-1, keepdims=True)) @ v
        return self.linear(name + ".out_proj.weight", mixed.swapaxes(1, 2).reshape(batch, length, width))

    def half(self, name, ids, memory=None):
        """The encoder, or with `memory` the decoder, over token ids [batch, length]."""
        x = self.t[name + ".tok_embedding.weight"][ids]
        x = x * np.float32(np.sqrt(x.shape[-1])) + self.t[name + ".pos_embedding.weight"][: ids.shape[1]]
        layers = 1 + max(int(k.split(".")[2]) for k in self.t if k.startswith(name + ".layers."))
        for i in range(layers):
            layer = f"{name}.layers.{i}."
            own = self.attention(layer + "self_attention", x, x, memory is not None)
            x = self.norm(layer + "self_attn_layer_norm", x + own)
            if memory is not None:
                seen = self.attention(layer + "encoder_attention", x, memory, False)
                x = self.norm(layer + "enc_attn_layer_norm", x + seen)
            inner = np.maximum(self.linear(layer + "positionwise_feedforward.fc_1.weight", x), 0)
            outer = self.linear(layer + "positionwise_feedforward.fc_2.weight", inner)
            x = self.norm(layer + "ff_layer_norm", x + outer)
        return x

    def logits(self, source, target):
        return self.linear("decoder.fc_out.weight", self.half("decoder", target, self.half("encoder", source)))


def random_tokens(config, seed=0):
    """Source and target ids [SEQUENCES, LENGTH], each id but the padding alike."""
    random, shape = np.random.default_rng(seed), (SEQUENCES, LENGTH)
    return tuple(random.integers(PAD + 1, config[name], shape) for name in ("INPUT_DIM", "OUTPUT_DIM"))


class Layers:
    """Errors at the outputs of layers under random tokens: sum |x (W_hat - W)^T|^2 over sum |x (W - W_base)^T|^2."""

    def __init__(self, load, base, fine_tune):
        self.load = load
        config = json.loads((Path(fine_tune) / "config.json").read_text())
        self.base, self.own = (load(Path(d) / "model.safetensors") for d in (base, fine_tune))
        model = Model(self.own, config["HEADS"])
        model.logits(*random_tokens(config))
        # |x E^T|^2 summed over tokens is tr(E x^T x E^T): the inputs need not be kept.
        square = lambda x: x.astype("f8").T @ x
        self.moments = {name: [(rows, square(x)) for rows, x in blocks] for name, blocks in model.inputs.items()}

    def energy(self, name, error):
        error = error.astype("f8")
        return sum(((error[rows] @ moment) * error[rows]).sum() for rows, moment in self.moments[name])

    def score(self, restored, lossy):
        """Mean and median over the layers named `lossy` of the checkpoint in `restored`."""
        got, errors = self.load(Path(restored) / "model.safetensors"), []
        for name in lossy:
            asked = self.energy(name, self.own[name] - self.base[name])
            if asked > 0:
                errors.append(self.energy(name, got[name] - self.own[name]) / asked)
        return {"error": float(np.mean(errors)), "median": float(np.median(errors)), "layers": len(errors)}
