#!/usr/bin/env python3
"""Exports read by what knows nothing of delta-stream: python3 test_export.py.

DELTA_STREAM names the binary; without it that of a release build is taken. A real pair is tried too where there is one:
rxnfp-base and rxnfp-ft10k in DELTA_STREAM_SHARED, or in ../shared beside the repository. What needs a package that is not there is skipped: zstandard and xxhash to apply steps of
weights, numpy to judge adapters, torch, transformers and peft to load them.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).parent.resolve()
sys.path.insert(0, str(HERE))

import apply_hf_delta  # noqa: E402

BINARY = os.environ.get("DELTA_STREAM") or str(HERE.parents[1] / "target" / "release" / "delta-stream")


def shared(name):
    """A real checkpoint, if it is on this machine."""
    root = Path(os.environ.get("DELTA_STREAM_SHARED") or HERE.parents[2] / "shared")
    found = [place for place in (root / "data" / name, root / name) if place.is_dir()]
    return found[0] if found else None


REAL = shared("rxnfp-base"), shared("rxnfp-ft10k")


def lacks(*packages):
    """Those of these packages that are not there, or an empty text."""
    return " ".join(name for name in packages if importlib.util.find_spec(name) is None)


def needs(*packages):
    missing = lacks(*packages)
    return unittest.skipIf(missing, f"needs {missing}")


def tensors(directory):
    """The bytes of each tensor of a checkpoint."""
    found = {}
    for name, (path, offset, length) in apply_hf_delta.places(Path(directory)).items():
        with path.open("rb") as file:
            file.seek(offset)
            found[name] = file.read(length)
    return found


@unittest.skipUnless(Path(BINARY).exists(), f"{BINARY} is not built")
class Case(unittest.TestCase):
    def setUp(self):
        self.dir = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.dir)

    def run_tool(self, *words):
        """One run of the program; its JSON."""
        line = [BINARY, *map(str, words), "--json", "-q"]
        done = subprocess.run(line, cwd=self.dir, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout) if done.stdout.strip() else {}

    def made_pair(self, dtype="bf16"):
        """A small sharded pair in this directory: the base's path and the fine-tune's."""
        sizes = ["--hidden", 96, "--intermediate", 160, "--layers", 2, "--vocab", 300]
        self.run_tool("make-pair", "made", *sizes, "--dtype", dtype, "--base-shards", 3, "--shards", 2)
        return self.dir / "made" / "base", self.dir / "made" / "fine-tune"

    def compress(self, base, fine_tune, *how):
        return self.run_tool("compress", "--shards", fine_tune, "--base", base, "-o", "a.delta.zst", "--force", *how)

    def export(self, form, base, *how):
        return self.run_tool("export", "a.delta.zst", "--format", form, "--base", base, "-o", self.dir / "out", "--force", *how)


class Steps(Case):
    """hf-delta."""

    def check(self, base, fine_tune, *how):
        """Applies a step and holds all that it told to the fine-tune."""
        report = self.export("hf-delta", base, *how)
        shutil.rmtree(self.dir / "patched", ignore_errors=True)
        n_changed = apply_hf_delta.apply(report["directory"], base, self.dir / "patched")
        self.assertEqual(n_changed, report["tensors"])
        patched, wanted = tensors(self.dir / "patched"), tensors(fine_tune)
        for name in report["left_out"]:
            del wanted[name]
        self.assertEqual({name: patched[name] == of for name, of in wanted.items()}, dict.fromkeys(wanted, True))
        return report

    @needs("zstandard", "xxhash")
    def test_a_sharded_pair_comes_back_bit_for_bit(self):
        base, fine_tune = self.made_pair()
        self.compress(base, fine_tune, "--method", "lossless")
        for encoding in ["xor", "overwrite"]:
            for checksum in ["xxh3-128", "adler32"]:
                report = self.check(base, fine_tune, "--encoding", encoding, "--checksum", checksum)
                self.assertGreater(report["tensors"], 10)

    @needs("zstandard", "xxhash")
    def test_a_lossy_variant_is_what_it_restores_to(self):
        base, fine_tune = self.made_pair("f16")
        self.compress(base, fine_tune, "--method", "bitdelta")
        self.run_tool("restore", "a.delta.zst", "--base", base, "-o", "back")
        self.check(base, self.dir / "back")

    @needs("zstandard", "xxhash")
    @unittest.skipUnless(all(REAL), "the real pair is not here; set DELTA_STREAM_SHARED")
    def test_a_real_pair_comes_back_bit_for_bit(self):
        base, fine_tune = REAL
        self.compress(base, fine_tune, "--method", "lossless")
        for encoding in ["xor", "overwrite"]:
            report = self.check(base, fine_tune, "--leave-out-new", "--encoding", encoding)
            self.assertEqual(report["left_out"], ["classifier.bias", "classifier.weight"])

    @needs("zstandard")
    def test_the_reader_refuses_what_is_not_right(self):
        base, fine_tune = self.made_pair()
        self.compress(base, fine_tune, "--method", "lossless")
        step = Path(self.export("hf-delta", base, "--checksum", "adler32", "--version", 4)["directory"])

        def refused(applied=3, of=base):
            shutil.rmtree(self.dir / "patched", ignore_errors=True)
            with self.assertRaises(apply_hf_delta.Refused):
                apply_hf_delta.apply(step, of, self.dir / "patched", applied)

        refused(applied=0)
        refused(of=fine_tune)
        apply_hf_delta.apply(step, base, self.dir / "good", 3)
        index = step / apply_hf_delta.INDEX
        text = index.read_text()
        index.write_text(text.replace('"zstd"', '"lz4"'))
        refused()
        index.write_text(text)
        step.rename(step.with_name("weight_v000009"))
        step = step.with_name("weight_v000009")
        refused()


class Adapters(Case):
    """peft."""

    @needs("numpy")
    def test_no_adapter_of_the_rank_is_a_hundredth_better(self):
        import numpy as np

        base, fine_tune = self.made_pair("f32")
        pairs = [(base, fine_tune)]
        if all(REAL):
            pairs.append(REAL)
        for base, fine_tune in pairs:
            self.compress(base, fine_tune, "--method", "lossless")
            for rank in [2, 16]:
                report = self.export("peft", base, "--rank", rank)
                old, new = tensors(base), tensors(fine_tune)
                least, lost = 0.0, 0.0
                for tensor in report["tensors"]:
                    name, shape = tensor["name"], tensor["shape"]
                    delta = np.frombuffer(new[name], "<f4") - np.frombuffer(old[name], "<f4")
                    squares = np.linalg.svd(delta.reshape(shape).astype(np.float64), compute_uv=False) ** 2
                    best = squares[rank:].sum()
                    np.testing.assert_allclose(tensor["squared_delta"], squares.sum(), rtol=1e-6)
                    self.assertLessEqual(tensor["squared_error"], 1.01 * best + 1e-9 * squares.sum(), name)
                    self.assertGreaterEqual(tensor["squared_error"], (1 - 1e-5) * best, name)
                    least, lost = least + best, lost + tensor["squared_error"]
                print(f"rank {rank}: {report['relative_error']:.4f} lost, {lost / least - 1:.2e} more than the least")

    @needs("torch", "transformers", "peft")
    def test_peft_loads_it_and_the_model_answers_as_with_its_product(self):
        import torch
        from peft import PeftModel
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(1)
        sizes = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=128)
        model = LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **sizes)).eval()
        model.save_pretrained(self.dir / "base")
        asked = torch.arange(24).reshape(2, 12)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "_proj" in name:
                    rows, columns = weight.shape
                    weight += torch.randn(rows, 4) @ torch.randn(4, columns) * 0.02
            model.save_pretrained(self.dir / "ft")
            wanted = model(asked).logits
        self.compress("base", "ft", "--method", "lossless")
        for how, close in [(["--rank", 4], 1e-3), (["--rank", 6, "--dtype", "bf16"], 0.1), (["--rank", 1], None)]:
            self.export("peft", "base", *how)
            plain = LlamaForCausalLM.from_pretrained(self.dir / "base").eval()
            adapted = PeftModel.from_pretrained(plain, self.dir / "out").eval()
            with torch.no_grad():
                got = adapted(asked).logits
                by_hand = self.with_products(LlamaForCausalLM, torch)(asked).logits
            torch.testing.assert_close(got, by_hand, rtol=1e-4, atol=1e-4)
            if close is None:
                self.assertGreater((got - wanted).abs().max(), 0.1)
            else:
                torch.testing.assert_close(got, wanted, rtol=0, atol=close)

    def with_products(self, kind, torch):
        """The base with B A added to its weights."""
        from safetensors.torch import load_file

        model = kind.from_pretrained(self.dir / "base").eval()
        weights = dict(model.named_parameters())
        factors = load_file(self.dir / "out" / "adapter_model.safetensors")
        with torch.no_grad():
            for name, left in factors.items():
                if name.endswith(".lora_B.weight"):
                    right = factors[name.replace("lora_B", "lora_A")]
                    of = name.removeprefix("base_model.model.").replace(".lora_B", "")
                    weights[of] += left.float() @ right.float()
        return model


if __name__ == "__main__":
    unittest.main()
