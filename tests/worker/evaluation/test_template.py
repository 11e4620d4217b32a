"""Models evaluated by an ONNX template equal direct torch, dense and compressed."""

import copy

import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional

import rankpress
from rankpress.errors import EvaluationMismatch
from tests.worker.evaluation.evaluation_helpers import (
    CPU,
    MemoryCheckpoint,
    request,
    restored,
    run,
    truncated,
    values,
    write_npz,
)
from worker.evaluation import check_evaluation, verify_dense
from worker.evaluation.weights import Weights

CLASSES = 6


class Cnn(nn.Module):
    """Convolutions of several strides with BatchNorm, pooling, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Conv2d(8, 12, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 1))
        self.norm2 = nn.BatchNorm2d(12)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(pixels)))
        x = torch.relu(self.norm2(self.body(x)))
        return self.head(self.drop(x.mean(dim=(2, 3))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 14)
        self.lstm = nn.LSTM(14, 18, batch_first=True)
        self.head = nn.Linear(18, CLASSES)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.lstm(self.embed(input_ids))
        return self.head(hidden[:, -1])


class Tied(nn.Module):
    """A transformer layer; the embedding's weight is the output layer's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, dropout=0.1)
        self.lm_head = nn.Linear(16, 30, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.layer(self.embed(input_ids), src_key_padding_mask=attention_mask == 0)
        return self.lm_head(hidden)


def train(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """A few steps, so that BatchNorm's statistics and the answers mean something."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    model.train()
    for _ in range(15):
        optimiser.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        optimiser.step()
    model.eval()


def labelled(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(7)
    targets = torch.randint(0, CLASSES, (inputs.shape[0],))
    train(model, inputs, targets)
    return targets


def logits_of(model: nn.Module, state, *inputs: torch.Tensor) -> torch.Tensor:
    model.load_state_dict(state)
    with torch.no_grad():
        return model.eval()(*inputs)


def asked(**fields):
    return request(architecture={"kind": "template", "template": "t"}, **fields)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("cnn")
    model = Cnn()
    inputs = torch.randn(70, 1, 10, 9)
    targets = labelled(model, inputs)
    rankpress.export_template(model, (inputs[:1],), folder / "cnn.onnx")
    data = write_npz(folder / "v.npz", pixels=inputs, targets=targets)
    return model, folder / "cnn.onnx", data, inputs, targets


@pytest.fixture
def cnn(exported):
    model, *rest = exported
    return copy.deepcopy(model), *rest


def same_as_torch(report, model, state, small, manifest, inputs, targets) -> None:
    got = values(report)
    for side, weights in enumerate((state, restored(small, manifest))):
        logits = logits_of(model, weights, *inputs).double()
        entropy = float(functional.cross_entropy(logits, targets))
        accuracy = float((logits.argmax(1) == targets).double().mean())
        assert got["cross_entropy"][side] == pytest.approx(entropy, abs=1e-5)
        assert got["accuracy"][side] == pytest.approx(accuracy)
    assert got["cross_entropy"][0] != got["cross_entropy"][1]


def test_a_cnn_with_batch_norm(cnn):
    model, template, data, inputs, targets = cnn
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ranks = {"stem.weight": 4, "body.weight": 5}
    report, small, manifest = run(asked(), state, ranks, data, template)
    same_as_torch(report, model, state, small, manifest, [inputs], targets)
    assert not report.architecture_assumed
    assert report.architecture.startswith("template, opset 20")
    assert [latency.batch_size for latency in report.latency] == [1, 32]
    assert any("answered 1 reference samples" in note for note in report.notes)
    assert (
        check_evaluation(asked(), MemoryCheckpoint(state).tensors, data, template).output_layer
        == "head.weight"
    )


def test_an_lstm(tmp_path):
    torch.manual_seed(0)
    model = Recurrent()
    inputs = torch.randint(0, 40, (50, 7))
    targets = labelled(model, inputs)
    template = tmp_path / "t.onnx"
    made = rankpress.export_template(model, {"input_ids": inputs[:2]}, template)
    assert made.inputs == ("input_ids",)
    data = write_npz(tmp_path / "v.npz", input_ids=inputs, targets=targets)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ranks = {"embed.weight": 6, "lstm.weight_ih_l0": 7, "lstm.weight_hh_l0": 6}
    report, small, manifest = run(asked(), state, ranks, data, template)
    same_as_torch(report, model, state, small, manifest, [inputs], targets)
    assert any("lstm.weight_ih_l0" in note for note in report.notes)  # multiplied back


def language_data(tmp_path):
    torch.manual_seed(0)
    model = Tied().eval()
    ids = torch.randint(0, 30, (40, 8))
    mask = torch.ones(40, 8, dtype=torch.int64)
    for row in range(40):
        mask[row, 8 - row % 5 :] = 0
    template = tmp_path / "t.onnx"
    made = rankpress.export_template(
        model, {"attention_mask": mask[:2], "input_ids": ids[:2]}, template
    )
    data = write_npz(tmp_path / "v.npz", input_ids=ids, attention_mask=mask)
    return model, ids, mask, template, data, made


def test_a_tied_transformer_scored_by_its_next_tokens(tmp_path):
    model, ids, mask, template, data, made = language_data(tmp_path)
    assert made.info.tied in (
        {"embed.weight": "lm_head.weight"},
        {"lm_head.weight": "embed.weight"},
    )
    # A file without duplicates keeps one name of the two: whichever, it is found.
    full = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for dropped in ("embed.weight", "lm_head.weight"):
        kept = "lm_head.weight" if dropped == "embed.weight" else "embed.weight"
        state = {name: tensor for name, tensor in full.items() if name != dropped}
        ranks = {kept: 9, "layer.self_attn.in_proj_weight": 10, "layer.linear1.weight": 8}
        report, small, manifest = run(
            asked(task="language_modelling"), state, ranks, data, template
        )
        got = values(report)
        back = restored(small, manifest)
        for side, weights in enumerate((full, {**back, dropped: back[kept]})):
            logits = logits_of(model, weights, ids, mask).double()
            target = ids[:, 1:].clone()
            target[mask[:, 1:] == 0] = -100
            loss = functional.cross_entropy(logits[:, :-1].transpose(1, 2), target)
            assert got["cross_entropy"][side] == pytest.approx(float(loss), abs=1e-5)
            assert got["perplexity"][side] == pytest.approx(float(loss.exp()), rel=1e-5)
        dense, compressed = (
            logits_of(model, w, ids, mask).argmax(-1) for w in (full, {**back, dropped: back[kept]})
        )
        real = mask.bool()
        agreement = (dense == compressed)[real].double().mean()
        assert got["agreement"][1] == pytest.approx(float(agreement))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_float32(tmp_path, dtype):
    torch.manual_seed(0)
    model = Cnn().eval().to(dtype)
    inputs = torch.randn(40, 1, 10, 9).to(dtype)
    template = tmp_path / "t.onnx"
    rankpress.export_template(model, inputs[:2], template)
    targets = torch.randint(0, CLASSES, (40,))
    from safetensors.torch import save_file

    data = tmp_path / "v.safetensors"
    save_file({"inputs": inputs, "targets": targets}, data)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ranks = {"body.weight": 6}
    report, small, manifest = run(asked(), state, ranks, data, template)
    small = {n: t.float() if t.is_floating_point() else t for n, t in small.items()}
    full = {n: t.float() if t.is_floating_point() else t for n, t in state.items()}
    same_as_torch(report, Cnn(), full, small, manifest, [inputs.float()], targets)
    assert any("evaluated in float32" in note for note in report.notes)


def test_a_fixed_batch_is_padded(tmp_path, cnn):
    model, _, data, inputs, targets = cnn
    template = tmp_path / "fixed.onnx"
    rankpress.export_template(model, (inputs[:16],), template, dynamic_batch=False)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report, small, manifest = run(asked(), state, {"body.weight": 5}, data, template)
    same_as_torch(report, model, state, small, manifest, [inputs], targets)
    assert [latency.batch_size for latency in report.latency] == [16]
    assert report.samples == 70
    assert any("exactly 16" in note for note in report.notes)


def test_a_model_on_the_meta_device_makes_the_same_template(tmp_path, cnn):
    model, _, data, inputs, targets = cnn
    with torch.device("meta"):
        empty = Cnn()
    template = tmp_path / "meta.onnx"
    rankpress.export_template(empty, (torch.empty(1, 1, 10, 9, device="meta"),), template)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report, small, manifest = run(asked(), state, {"body.weight": 5}, data, template)
    same_as_torch(report, model, state, small, manifest, [inputs], targets)


def test_names_with_a_wrappers_prefix_are_found(cnn):
    model, template, data, inputs, targets = cnn
    state = {f"module.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    report, small, manifest = run(asked(), state, {"module.body.weight": 5}, data, template)
    bare = {name.removeprefix("module."): t for name, t in restored(small, manifest).items()}
    logits = logits_of(model, bare, inputs).double()
    wanted = float(functional.cross_entropy(logits, targets))
    assert values(report)["cross_entropy"][1] == pytest.approx(wanted, abs=1e-5)


def test_weights_of_another_model_are_told_before_the_factorisation(cnn):
    model, template, data, _, _ = cnn
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state["head.weight"] = state["head.weight"] + 0.5
    dense = MemoryCheckpoint(state)
    plan = check_evaluation(asked(), dense.tensors, data, template)
    with pytest.raises(EvaluationMismatch, match="does not give the outputs"):
        verify_dense(plan, dense, data, CPU)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("stem.weight"),
            r"takes the tensor 'stem\.weight', which the model does not",
        ),
        (lambda s: s.update(extra=torch.zeros(3)), r"does not use 1 tensors of the model: 'extra'"),
        (
            lambda s: s.update({"head.bias": torch.zeros(7)}),
            r"\[7\] in the model, but float32 \[6\]",
        ),
        (
            lambda s: s.update({"head.bias": torch.zeros(6, dtype=torch.float64)}),
            r"is float64 \[6\] in the model, but float32 \[6\]",
        ),
    ],
)
def test_checkpoints_that_the_template_does_not_fit(cnn, change, message):
    model, template, data, _, _ = cnn
    state = dict(model.state_dict())
    change(state)
    with pytest.raises(EvaluationMismatch, match=message):
        check_evaluation(asked(), MemoryCheckpoint(state).tensors, data, template)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": torch.zeros(4, 1, 10, 9)}, r"no array 'pixels', which the model takes"),
        ({"pixels": torch.zeros(4, 1, 10, 8)}, r"takes \[samples, 1, 10, 9\]"),
        ({"pixels": torch.zeros(4, 90)}, r"has shape \[4, 90\]"),
        ({"pixels": torch.zeros(4, 1, 10, 9, dtype=torch.float64)}, r"float64.*takes float32"),
    ],
)
def test_data_that_the_template_does_not_take(tmp_path, cnn, arrays, message):
    model, template, _, _, _ = cnn
    data = write_npz(tmp_path / "w.npz", targets=torch.zeros(4, dtype=torch.int64), **arrays)
    with pytest.raises(EvaluationMismatch, match=message):
        check_evaluation(asked(), MemoryCheckpoint(model.state_dict()).tensors, data, template)


def test_tokens_beyond_the_vocabulary(tmp_path):
    torch.manual_seed(0)
    model = Recurrent().eval()
    template = tmp_path / "t.onnx"
    ids = torch.randint(0, 40, (5, 7))
    rankpress.export_template(model, {"input_ids": ids[:2]}, template)
    ids[3, 2] = 99
    data = write_npz(tmp_path / "v.npz", input_ids=ids, targets=torch.zeros(5, dtype=torch.int64))
    with pytest.raises(EvaluationMismatch, match="beyond an embedding's rows"):
        run(asked(), model.state_dict(), {}, data, template)


def test_a_template_is_needed(cnn):
    model, _, data, _, _ = cnn
    with pytest.raises(EvaluationMismatch, match="names no template"):
        check_evaluation(asked(), MemoryCheckpoint(model.state_dict()).tensors, data, None)


def test_batch_norm_statistics_stay_as_they_are(cnn):
    model, template, data, _, _ = cnn
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = {name: tensor.clone() for name, tensor in state.items()}
    run(asked(), state, {"body.weight": 5}, data, template)
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_the_factored_graph_answers_as_the_product(cnn):
    model, template, data, inputs, _ = cnn
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = check_evaluation(asked(), MemoryCheckpoint(state).tensors, data, template)
    small, manifest = truncated(state, {"stem.weight": 4, "body.weight": 5, "head.weight": 3})
    weights = Weights(MemoryCheckpoint(small), manifest)
    scored = plan.architecture.build(weights, CPU)
    fast, notes = plan.architecture.build_factored(weights, CPU)
    torch.testing.assert_close(
        fast({"pixels": inputs}), scored({"pixels": inputs}), atol=1e-5, rtol=1e-5
    )
    assert notes == ()


def test_a_template_holds_no_weights_no_paths_and_no_source(cnn):
    _, template, _, _, _ = cnn
    raw = template.read_bytes()
    assert b".py" not in raw
    model = onnx.load_from_string(raw)
    assert all(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer)
    assert len(raw) < 20_000
