"""Names, ties, containers, and what is said when something does not fit."""

from __future__ import annotations

import copy
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from rankpress.errors import RankpressError
from rankpress.formats.torch_zip import MANIFEST_RECORD
from rankpress.loading import (
    DoesNotFit,
    LoadError,
    NotCompressed,
    UnreadableFile,
    load_compressed,
    read_tensors,
    save_dense,
)
from rankpress.loading.names import unwrapped
from rankpress.names import Kind, OutputLayout
from rankpress.schemas.manifest import Manifest
from tests.rankpress.loading.compressing_by_hand import Cut, compress, write

M = Kind.MATRIX


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 9)).double()


CUTS = [Cut("0.weight", M, 2), Cut("2.weight", M, 3)]


def prefixed(prefix: str) -> tuple[dict[str, torch.Tensor], list[Cut]]:
    state = {prefix + k: v for k, v in net().state_dict().items()}
    return state, [Cut(prefix + c.name, c.kind, c.rank) for c in CUTS]


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
)
def test_wrappers_in_the_file_are_seen_through(prefix: str, tmp_path: Path) -> None:
    state, cuts = prefixed(prefix)
    tensors, manifest, reference = compress(state, cuts)
    loaded = load_compressed(net(), write(tmp_path / "c.safetensors", tensors, manifest))
    dense = net()
    dense.load_state_dict({k.removeprefix(prefix): v for k, v in reference.items()})
    x = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(loaded(x), dense(x), rtol=1e-10, atol=1e-10)


def test_wrappers_in_the_model_are_seen_through(tmp_path: Path) -> None:
    tensors, manifest, _ = compress(net().state_dict(), CUTS)
    path = write(tmp_path / "c.safetensors", tensors, manifest)
    wrapped = nn.Module()
    wrapped.module = nn.Module()
    wrapped.module._orig_mod = net()
    load_compressed(wrapped, path)
    assert torch.equal(wrapped.module._orig_mod[0][0].weight, tensors["0.0.weight"])


def test_a_submodule_that_is_really_called_module_is_not_lost(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.ModuleDict(
            {"module": nn.ModuleDict({"a": nn.Linear(6, 4)}), "a": nn.Linear(6, 4)}
        )

    state = build().state_dict()
    tensors, manifest, _ = compress(state, [Cut("module.a.weight", M, 2)])
    loaded = load_compressed(build(), write(tmp_path / "c.safetensors", tensors, manifest))
    assert torch.equal(loaded["a"].weight, state["a.weight"])
    assert torch.equal(loaded["module"]["a"][0].weight, tensors["module.a.0.weight"])


def test_unwrapped_takes_whole_parts_only() -> None:
    assert unwrapped("module.a._orig_mod.module_list.0") == "a.module_list.0"


class Tied(nn.Module):
    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        if tie:
            self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(ids))


@pytest.mark.parametrize("named", [True, False], ids=["alias in the manifest", "left out"])
def test_tied_weights_stay_tied(named: bool, tmp_path: Path) -> None:
    state = {k: v for k, v in Tied().double().state_dict().items() if named or "head" not in k}
    aliases = {"head.weight": "embed.weight"} if named else {}
    tensors, manifest, reference = compress(state, [Cut("embed.weight", M, 3)], aliases=aliases)
    loaded = load_compressed(Tied().double(), write(tmp_path / "c.safetensors", tensors, manifest))
    dense = Tied().double()
    dense.embed.weight.data.copy_(reference["embed.weight"])
    ids = torch.tensor([[1, 4, 10]])
    torch.testing.assert_close(loaded(ids), dense(ids), rtol=1e-10, atol=1e-10)
    assert loaded.head[1].weight is loaded.embed.get_submodule("1").weight
    assert len(list(loaded.parameters())) == 2


def test_an_alias_in_an_untied_model_is_loaded_and_stays_untied(tmp_path: Path) -> None:
    state = Tied().double().state_dict()
    tensors, manifest, reference = compress(
        state, [Cut("embed.weight", M, 3)], aliases={"head.weight": "embed.weight"}
    )
    path = write(tmp_path / "c.safetensors", tensors, manifest)
    loaded = load_compressed(Tied(tie=False).double(), path)
    torch.testing.assert_close(loaded.head.weight, reference["head.weight"])
    assert loaded.head[1].weight is not loaded.embed.get_submodule("1").weight


def test_a_dense_alias_is_copied_to_both(tmp_path: Path) -> None:
    state = Tied().double().state_dict()
    tensors, manifest, _ = compress(state, [], aliases={"head.weight": "embed.weight"})
    path = write(tmp_path / "c.safetensors", tensors, manifest)
    for model in (Tied().double(), Tied(tie=False).double(), Tied().double().to("meta")):
        loaded = load_compressed(model, path)
        assert torch.equal(loaded.head.weight, state["embed.weight"])
        assert torch.equal(loaded.embed.weight, state["embed.weight"])


def test_a_layer_registered_twice_is_swapped_at_both_places(tmp_path: Path) -> None:
    def build() -> nn.Module:
        shared = nn.Linear(6, 6)
        return nn.Sequential(shared, nn.ReLU(), shared).double()

    dense = build()
    state = {k: v for k, v in dense.state_dict().items() if k.startswith("0.")}
    tensors, manifest, reference = compress(state, [Cut("0.weight", M, 2)])
    loaded = load_compressed(build(), write(tmp_path / "c.safetensors", tensors, manifest))
    dense[0].load_state_dict({k[2:]: v for k, v in reference.items()})
    x = torch.randn(3, 6, dtype=torch.float64)
    torch.testing.assert_close(loaded(x), dense(x), rtol=1e-10, atol=1e-10)
    assert loaded[0] is loaded[2]


def unchanged(model: nn.Module, before: dict[str, torch.Tensor], types: list[type]) -> bool:
    now = model.state_dict()
    return (
        now.keys() == before.keys()
        and all(torch.equal(now[k], before[k]) for k in now)
        and [type(m) for m in model.modules()] == types
    )


def fails(model: nn.Module, path: Path, error: type[LoadError], **options: bool) -> LoadError:
    """Loading raises, and leaves the model as it was."""
    before = copy.deepcopy(model.state_dict())
    types = [type(m) for m in model.modules()]
    with pytest.raises(error) as caught:
        load_compressed(model, path, **options)
    assert isinstance(caught.value, RankpressError)
    assert unchanged(model, before, types)
    return caught.value


def test_everything_that_does_not_fit_is_listed_at_once(tmp_path: Path) -> None:
    tensors, manifest, _ = compress(net().state_dict(), CUTS)
    tensors["stray"] = torch.ones(2)
    del tensors["0.1.bias"]
    path = write(tmp_path / "c.safetensors", tensors, manifest)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(9, 4), nn.Linear(4, 2)).double()
    error = fails(model, path, DoesNotFit)
    assert isinstance(error, DoesNotFit)
    assert error.missing == ("0.bias", "3.weight", "3.bias")
    assert error.unexpected == ("stray",)
    assert len(error.mismatched) == 2
    assert error.mismatched[0].startswith("2.weight: 9x4 in the file, 4x9 in the model (transposed")
    for name in ("0.bias", "stray", "2.bias"):
        assert name in error.detail


def test_not_strict_loads_what_is_in_both(tmp_path: Path) -> None:
    tensors, manifest, _ = compress(net().state_dict(), CUTS)
    tensors["stray"] = torch.ones(2)
    path = write(tmp_path / "c.safetensors", tensors, manifest)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU()).double()
    load_compressed(model, path, strict=False)
    assert torch.equal(model[0][0].weight, tensors["0.0.weight"])
    fails(nn.Sequential(nn.Linear(6, 4)).double(), path, DoesNotFit)


def test_groups_that_differ_are_named(tmp_path: Path) -> None:
    dense = nn.Sequential(nn.Conv2d(6, 8, 3))
    tensors, manifest, _ = compress(dense.state_dict(), [Cut("0.weight", Kind.CONVOLUTION, 4)])
    path = write(tmp_path / "c.safetensors", tensors, manifest)
    error = fails(nn.Sequential(nn.Conv2d(6, 8, 3, groups=2)), path, DoesNotFit)
    assert "groups=2" in error.detail


def test_factors_that_contradict_the_manifest(tmp_path: Path) -> None:
    tensors, manifest, _ = compress(net().state_dict(), CUTS)
    tensors["0.0.weight"] = tensors["0.0.weight"].T.contiguous()
    del tensors["2.1.weight"]
    path = write(tmp_path / "c.safetensors", tensors, manifest)
    error = fails(net(), path, DoesNotFit)
    assert "0.0.weight: 6x2 in the file, 2x6 by the manifest" in error.detail
    assert "the manifest names 2.1.weight, which the file lacks" in error.detail


def test_values_that_do_not_fit_the_models_dtype(tmp_path: Path) -> None:
    dense = net().float()
    dense[0].bias.data.fill_(1e30)
    tensors, manifest, _ = compress(dense.state_dict(), CUTS)
    path = write(tmp_path / "c.safetensors", tensors, manifest)
    error = fails(net().half(), path, LoadError)
    assert "0.1.bias" in error.detail
    assert "float16" in error.detail


def test_whole_numbers_are_not_loaded_into_a_float(tmp_path: Path) -> None:
    tensors, manifest, _ = compress(net().state_dict(), [])
    tensors["0.bias"] = tensors["0.bias"].to(torch.int64)
    path = write(tmp_path / "c.safetensors", tensors, manifest)
    assert "int64" in fails(net(), path, LoadError).detail


def test_a_file_without_a_manifest(tmp_path: Path) -> None:
    save_file(net().state_dict(), tmp_path / "dense.safetensors")
    fails(net(), tmp_path / "dense.safetensors", NotCompressed)
    torch.save(net().state_dict(), tmp_path / "dense.pt")
    fails(net(), tmp_path / "dense.pt", NotCompressed)


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"\x10\0\0\0\0\0\0\0{}", b"PK\3\4cut"])
def test_files_that_are_nothing(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    fails(net(), path, UnreadableFile)


class Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("the file ran its code",))


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    save_pt(tmp_path / "evil.pt", {"a": Runs()}, Manifest(layers=()))
    fails(net(), tmp_path / "evil.pt", UnreadableFile)


def save_pt(path: Path, content: object, manifest: Manifest) -> None:
    """As the service does: the manifest is a record of the archive, the value is the caller's."""
    torch.save(content, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{path.stem}/{MANIFEST_RECORD}", manifest.model_dump_json())


@pytest.mark.parametrize("nested", [False, True])
def test_pt_files(nested: bool, tmp_path: Path) -> None:
    tensors, manifest, _ = compress(net().state_dict(), CUTS)
    content = {"epoch": 3, "state_dict": tensors, "more": {"a": torch.ones(1)}}
    save_pt(tmp_path / "c.pt", content if nested else tensors, manifest)
    loaded = load_compressed(net(), tmp_path / "c.pt")
    assert torch.equal(loaded[2][1].weight, tensors["2.1.weight"])
    assert read_tensors(tmp_path / "c.pt").keys() == tensors.keys()


def test_a_tar_of_shards(tmp_path: Path) -> None:
    tensors, manifest, _ = compress(net().state_dict(), CUTS)
    names = sorted(tensors)
    shards = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        for number, (file, keys) in enumerate(shards.items()):
            # Each shard carries its part of the manifest.
            part = manifest.model_copy(update={"layers": manifest.layers[number : number + 1]})
            write(tmp_path / file, {k: tensors[k] for k in keys}, part)
            tar.add(tmp_path / file, file)
        index = {"weight_map": {k: f for f, keys in shards.items() for k in keys}}
        (tmp_path / "i.json").write_text(json.dumps(index))
        tar.add(tmp_path / "i.json", "model.safetensors.index.json")
    loaded = load_compressed(net(), tmp_path / "c.tar")
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, tensors[key])
    found = read_tensors(tmp_path / "c.tar")
    assert all(torch.equal(found[k], tensors[k]) for k in tensors)


def test_a_folder_of_shards(tmp_path: Path) -> None:
    tensors, manifest, _ = compress(net().state_dict(), CUTS)
    (tmp_path / "config.json").write_text("{}")
    names = sorted(tensors)
    shards = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
    for file, keys in shards.items():
        write(tmp_path / file, {k: tensors[k] for k in keys}, manifest)
    index = {"weight_map": {k: f for f, keys in shards.items() for k in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    loaded = load_compressed(net(), tmp_path)
    assert torch.equal(loaded[2][1].weight, tensors["2.1.weight"])


def test_a_folder_with_a_config_and_one_file(tmp_path: Path) -> None:
    tensors, manifest, _ = compress(net().state_dict(), CUTS)
    (tmp_path / "config.json").write_text("{}")
    write(tmp_path / "model.safetensors", tensors, manifest)
    assert torch.equal(load_compressed(net(), tmp_path)[0][0].weight, tensors["0.0.weight"])


def test_the_dense_layout_loads_strictly(tmp_path: Path) -> None:
    _, manifest, reference = compress(net().state_dict(), CUTS)
    manifest = manifest.model_copy(update={"layout": OutputLayout.DENSE})
    path = write(tmp_path / "c.safetensors", reference, manifest)
    loaded = load_compressed(net(), path)
    assert isinstance(loaded[0], nn.Linear)
    assert torch.equal(loaded[0].weight, reference["0.weight"])


def test_a_bias_that_the_correction_added(tmp_path: Path) -> None:
    dense = nn.Sequential(nn.Linear(6, 4, bias=False)).double()
    tensors, manifest, _ = compress(dense.state_dict(), [Cut("0.weight", M, 2)])
    tensors["0.1.bias"] = torch.arange(4, dtype=torch.float64)
    layer = manifest.layers[0].model_copy(update={"bias": ("0.bias", "0.1.bias")})
    manifest = manifest.model_copy(update={"layers": (layer,)})
    loaded = load_compressed(dense, write(tmp_path / "c.safetensors", tensors, manifest))
    assert torch.equal(loaded(torch.zeros(1, 6).double())[0], tensors["0.1.bias"])


def test_saving_a_dense_model_writes_tied_tensors_once(tmp_path: Path) -> None:
    save_dense(Tied(), tmp_path / "tied.safetensors")
    assert load_file(tmp_path / "tied.safetensors").keys() == {"embed.weight"}
    whole = torch.randn(6, 4)
    save_dense({"a": whole[:2], "b": whole[2:], "c": whole.T}, tmp_path / "views.safetensors")
    found = load_file(tmp_path / "views.safetensors")
    assert torch.equal(found["b"], whole[2:])
    assert torch.equal(found["c"], whole.T)
    with pytest.raises(TypeError, match="state_dict"):
        save_dense([1, 2], tmp_path / "x")  # type: ignore[arg-type]
