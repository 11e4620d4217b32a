"""A transformers model there and back: `save_pretrained`, compress, `from_pretrained` with the
layers swapped. Works offline; here with a tiny BERT made from its configuration.

    python transformers_round_trip.py FOLDER

Plain SVD breaks a trained transformer early: with a real one, give `aware` and statistics, and a
budget (docs/choosing-tau.md).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from rankpress import Client
from rankpress.loading import load_compressed


def save(folder: Path) -> BertModel:
    """Stands for a model of yours: random, but of low rank, so that there is something to find."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=200,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    model = BertModel(config).eval()
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear):
                m, n = layer.weight.shape
                layer.weight.copy_(torch.randn(m, 8) @ torch.randn(8, n) / 64)
    model.save_pretrained(folder)
    return model


def compress(folder: Path) -> Path:
    """A folder of shards works alike: pass the folder."""
    url = os.environ.get("RANKPRESS_URL", "http://127.0.0.1:8000")
    with Client(url, api_key=os.environ.get("RANKPRESS_API_KEY")) as client:
        done = client.compress(
            folder / "model.safetensors",
            threshold=1.0,  # lossless: exactly what is of low rank goes
            layers=[{"match": "embeddings.*", "keep_dense": True}],
            out=folder / "compressed.safetensors",
        )
    before, after = done.report.parameters_before, done.report.parameters_after
    print(f"{before:,} -> {after:,} parameters")
    return done.path


def load(folder: Path, weights: Path) -> torch.nn.Module:
    """`from_config` builds the architecture without weights; the loader swaps and fills it."""
    return load_compressed(
        AutoModel.from_config(AutoConfig.from_pretrained(folder)), weights
    ).eval()


def main() -> None:
    folder = Path(sys.argv[1])
    dense = save(folder)
    small = load(folder, compress(folder))
    tokens = torch.randint(0, 200, (4, 16))
    with torch.no_grad():
        before, after = dense(tokens).last_hidden_state, small(tokens).last_hidden_state
    difference = ((before - after).norm() / before.norm()).item()
    print(f"relative difference of the hidden states: {difference:.2e}")
    if difference > 1e-4:
        sys.exit("the round trip is not lossless")


if __name__ == "__main__":
    main()
