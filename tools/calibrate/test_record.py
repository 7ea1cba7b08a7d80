#!/usr/bin/env python3
"""Tests of record.py: python3 test_record.py. Those that run a model are skipped without torch and transformers."""
import contextlib
import importlib.util
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

import record

HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
needs_torch = unittest.skipUnless(HAS_TORCH, "torch and transformers are not installed")


def read(path):
    """Metadata and arrays of a file that record.py wrote."""
    raw = Path(path).read_bytes()
    n = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + n])
    metadata, out = header.pop("__metadata__"), {}
    for name, t in header.items():
        a, b = (8 + n + x for x in t["data_offsets"])
        out[name] = np.frombuffer(raw[a:b], "<f4").reshape(t["shape"])
    return metadata, out


class WithoutTorch(unittest.TestCase):
    def test_moments_are_means_over_all_rows(self):
        x = np.random.default_rng(1).standard_normal((4, 5, 3))
        for full in (False, True):
            moments = record.Moments(3, full)
            for part in x:
                moments.add(part)
            want = np.einsum("abi,abj->ij", x, x) / 20
            np.testing.assert_allclose(moments.mean(), want if full else np.diag(want), rtol=1e-6)

    def test_names_are_those_of_the_checkpoint(self):
        stored = {"bert.encoder.0.weight": (4, 3), "classifier.weight": (2, 4), "layers.0.weight": (4, 4)}
        find = lambda module, shape: record.stored_name(module, shape, stored, "bert")
        self.assertEqual(find("bert.encoder.0", (4, 3)), "bert.encoder.0.weight")
        self.assertEqual(find("encoder.0", (4, 3)), "bert.encoder.0.weight")
        self.assertEqual(find("bert.layers.0", (4, 4)), "layers.0.weight")
        self.assertEqual(find("classifier", (2, 4)), "classifier.weight")
        self.assertIsNone(find("classifier", (4, 2)))
        self.assertIsNone(find("pooler", (4, 4)))

    def test_a_file_reads_back(self):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "a.safetensors"
            arrays = {"x": np.arange(3, dtype="f4"), "y": np.eye(2, dtype="f4")}
            record.write(path, arrays, {"tokens": "5"})
            metadata, back = read(path)
            self.assertEqual(metadata, {"tokens": "5"})
            self.assertEqual(record.shapes(place), {"x": (3,), "y": (2, 2)})
            for name in arrays:
                np.testing.assert_array_equal(back[name], arrays[name])


@needs_torch
class WithTorch(unittest.TestCase):
    def bert(self, place):
        """A tiny model saved with its head; the ids that record.py draws, and the model."""
        import torch
        from transformers import BertConfig, BertForSequenceClassification

        torch.manual_seed(3)
        sizes = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2)
        model = BertForSequenceClassification(BertConfig(vocab_size=30, max_position_embeddings=16, **sizes)).eval()
        model.save_pretrained(place)
        return model, torch.tensor(np.random.default_rng(5).integers(0, 30, 32).reshape(4, 8))

    def test_a_models_inputs_with_and_without_its_head(self):
        import torch

        for name in (None, "AutoModel"):
            with tempfile.TemporaryDirectory() as place:
                model, ids = self.bert(place)
                out = Path(place) / "out" / "a.safetensors"
                out.parent.mkdir()
                options = ["--random-tokens", "32", "--seed", "5", "--length", "8", "--full"]
                record.main([place, "-o", str(out), *options, *(["--class", name] if name else [])])
                metadata, found = read(out)
                self.assertEqual((metadata["tokens"], metadata["moments"]), ("32", "full"))
                # Six in each block, the pooler, and the head if it is loaded.
                self.assertEqual(len(found), 14 if name is None else 13)
                with torch.inference_mode():
                    x = model.bert.embeddings(ids).double().numpy().reshape(-1, 8)
                query = found["bert.encoder.layer.0.attention.self.query.weight"]
                np.testing.assert_allclose(query, x.T @ x / 32, rtol=1e-4, atol=1e-5)
                self.assertEqual(found["bert.encoder.layer.1.output.dense.weight"].shape, (12, 12))

    def test_token_lists_and_the_diagonal(self):
        with tempfile.TemporaryDirectory() as place:
            _, ids = self.bert(place)
            out, tokens = Path(place) / "out" / "a.safetensors", Path(place) / "tokens"
            out.parent.mkdir()
            tokens.write_text("".join(json.dumps(row) + "\n" for row in ids.tolist()))
            record.main([place, "-o", str(out), "--tokens", str(tokens), "--include", "query"])
            diagonal = read(out)[1]
            self.assertEqual(len(diagonal), 2)
            record.main([place, "-o", str(out), "--random-tokens", "32", "--seed", "5", "--length", "8", "--full"])
            full = read(out)[1]
            for name, x in diagonal.items():
                np.testing.assert_allclose(x, np.diag(full[name]), rtol=1e-5)

    def test_conv1d_is_left_out(self):
        from transformers import GPT2Config, GPT2LMHeadModel

        with tempfile.TemporaryDirectory() as place:
            GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=30, n_positions=16)).save_pretrained(place)
            out = Path(place) / "out"
            out.mkdir()
            errors = io.StringIO()
            with contextlib.redirect_stderr(errors), self.assertRaisesRegex(SystemExit, "no linear layer"):
                record.main([place, "-o", str(out / "a.safetensors"), "--random-tokens", "8"])
            self.assertIn("transformer.h.0.attn.c_attn: Conv1D", errors.getvalue())

    def test_the_file_stays_out_of_the_model(self):
        with tempfile.TemporaryDirectory() as place:
            self.bert(place)
            with self.assertRaisesRegex(SystemExit, "another place"):
                record.main([place, "-o", str(Path(place) / "a.safetensors"), "--random-tokens", "8"])


if __name__ == "__main__":
    if not HAS_TORCH:
        print("torch and transformers are not installed: the tests that run a model are skipped", file=sys.stderr)
    unittest.main()
