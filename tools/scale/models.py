"""Shapes of published models: which tensors they have, in the order of their state, and their config.json."""
from dataclasses import dataclass

BYTES = 2  # of a bf16


@dataclass(frozen=True)
class Model:
    """A model of the llama family; `experts` is 0 where it is dense, `shard_bytes` the limit of a published shard."""

    title: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    shard_bytes: int
    experts: int = 0


MODELS = {
    "7b": Model("llama-2-7B", 4096, 11008, 32, 32, 32, 32000, 10 * 10**9),
    "13b": Model("llama-2-13B", 5120, 13824, 40, 40, 40, 32000, 10 * 10**9),
    "34b": Model("CodeLlama-34B", 8192, 22016, 48, 64, 8, 32000, 10 * 10**9),
    "70b": Model("llama-2-70B", 8192, 28672, 80, 64, 8, 32000, 10 * 10**9),
    "mixtral": Model("Mixtral-8x7B", 4096, 14336, 32, 32, 8, 32000, 5 * 10**9, experts=8),
}


def feed_forward(model):
    """Names inside a block, with shapes."""
    wide, narrow = (model.intermediate, model.hidden), (model.hidden, model.intermediate)
    if not model.experts:
        return [("mlp.gate_proj", wide), ("mlp.up_proj", wide), ("mlp.down_proj", narrow)]
    gate = [("block_sparse_moe.gate", (model.experts, model.hidden))]
    expert = [("w1", wide), ("w2", narrow), ("w3", wide)]
    return gate + [
        (f"block_sparse_moe.experts.{i}.{name}", shape) for i in range(model.experts) for name, shape in expert
    ]


def tensors(model):
    """All tensors as (name, shape), in the order of the model's state."""
    hidden = model.hidden
    keys = hidden // model.heads * model.kv_heads
    block = [
        ("self_attn.q_proj", (hidden, hidden)),
        ("self_attn.k_proj", (keys, hidden)),
        ("self_attn.v_proj", (keys, hidden)),
        ("self_attn.o_proj", (hidden, hidden)),
        *feed_forward(model),
        ("input_layernorm", (hidden,)),
        ("post_attention_layernorm", (hidden,)),
    ]
    embedding = (model.vocab, hidden)
    out = [("model.embed_tokens.weight", embedding)]
    for layer in range(model.layers):
        out += [(f"model.layers.{layer}.{name}.weight", shape) for name, shape in block]
    return out + [("model.norm.weight", (hidden,)), ("lm_head.weight", embedding)]


def one_tensor(model):
    """The tensor that is restored alone: a large one in the middle of the model."""
    name = "block_sparse_moe.experts.3.w2" if model.experts else "mlp.down_proj"
    return f"model.layers.{model.layers // 2}.{name}.weight"


def config(model):
    """The config.json, as far as it speaks of shapes."""
    kind = "mixtral" if model.experts else "llama"
    out = {
        "architectures": [kind.capitalize() + "ForCausalLM"],
        "model_type": kind,
        "hidden_size": model.hidden,
        "intermediate_size": model.intermediate,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "vocab_size": model.vocab,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    if model.experts:
        out |= {"num_local_experts": model.experts, "num_experts_per_tok": 2}
    return out
