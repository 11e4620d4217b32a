from __future__ import annotations

import pytest
import torch

from rankpress.errors import InvalidRequest
from rankpress.names import Kind, Reason, Rule
from rankpress.schemas.request import JobRequest
from worker.read.cost import STEP_SECONDS
from worker.read.factor_keys import FactorKeys, factor_keys
from worker.read.output_layer import OutputLayer, guess_output_layer
from worker.read.plan import Plan, make_plan
from worker.tensors import StoredTensor


def stored(name: str, *shape: int, dtype: str = "float32", **more) -> StoredTensor:
    size = 1
    for side in shape:
        size *= side
    return StoredTensor(name=name, dtype=dtype, shape=shape, nbytes=size * 4, **more)


def plan(*tensors: StoredTensor, output: OutputLayer | None = None, **fields) -> Plan:
    request = {"model": "m", "threshold": 0.9, "protect_output": False} | fields
    return make_plan(tensors, JobRequest.model_validate(request), output)


MLP = (
    stored("0.weight", 512, 784),
    stored("0.bias", 512),
    stored("2.weight", 256, 512),
    stored("2.bias", 256),
    stored("4.weight", 10, 256),
    stored("4.bias", 10),
)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (stored("t", 6, 4, dtype="int64"), Reason.INTEGER),
        (stored("t", 6, 4, dtype="uint8"), Reason.INTEGER),
        (stored("t", 6, 4, dtype="bool"), Reason.BOOLEAN),
        (stored("t", 6, 4, dtype="complex64"), Reason.COMPLEX),
        (stored("t", 6, 4, dtype="float8_e4m3fn"), Reason.FLOAT8),
        (stored("t", 6, 4, dtype="float4_e2m1fn_x2"), Reason.FLOAT4),
        (stored("t", 6, 4, dtype="qint8"), Reason.QUANTISED),
        (stored("t"), Reason.NOT_A_MATRIX),
        (stored("t", 6), Reason.NOT_A_MATRIX),
        (stored("t", 0, 7), Reason.ZERO_SIZE),
        (stored("t", 64, 1, 3, 3), Reason.DEPTHWISE),
        (stored("t", 2, 2, 2, 2, 2, 2), Reason.TOO_MANY_DIMENSIONS),
        (stored("t", 6, 4, passthrough=Reason.SPARSE), Reason.SPARSE),
        (stored("t", 6, 4, passthrough=Reason.OPTIMIZER_STATE), Reason.OPTIMIZER_STATE),
        (stored("t", 6, 4, alias_of="s"), Reason.TIED),
        (stored("t", 1, 50), Reason.ABOVE_BREAK_EVEN),
        (stored("t", 50, 1), Reason.ABOVE_BREAK_EVEN),
        (stored("t", 64, 48), None),
        (stored("t", 64, 48, dtype="bfloat16"), None),
        (stored("t", 64, 48, 3), None),
        (stored("t", 64, 48, 3, 3), None),
        (stored("t", 64, 48, 3, 3, 3), None),
    ],
)
def test_candidates_and_reasons(tensor: StoredTensor, reason: Reason | None) -> None:
    planned = plan(stored("s", 6, 4), tensor)["t"]
    assert planned.reason is reason
    assert planned.is_candidate == (reason is None)
    assert bool(planned.keys) == planned.is_candidate
    assert (planned.estimated_seconds > 0) == planned.is_candidate


def test_every_dtype_of_torch_is_a_matrix_or_has_a_reason() -> None:
    floating = {"float64", "float32", "float16", "bfloat16"}
    names = {
        str(v).removeprefix("torch.") for v in vars(torch).values() if isinstance(v, torch.dtype)
    }
    assert floating < names
    for name in names:
        assert plan(stored("t", 64, 48, dtype=name))["t"].is_candidate == (name in floating)


def test_all_tensors_in_order_and_all_candidates_in_groups() -> None:
    found = plan(*MLP)
    assert [p.name for p in found.tensors] == [t.name for t in MLP]
    assert sum(found.groups, ()) == ("0.weight", "2.weight", "4.weight")


def test_groups_are_consecutive_and_of_bounded_work() -> None:
    layers = tuple(stored(f"{i}.weight", 2048, 2048) for i in range(40))
    found = plan(stored("huge.weight", 8192, 8192), *layers)
    assert sum(found.groups, ()) == tuple(p.name for p in found.tensors)
    assert len(found.groups) > 3
    for group in found.groups:
        seconds = sum(found[name].estimated_seconds for name in group)
        assert seconds <= STEP_SECONDS or len(group) == 1
    assert found.groups[0] == ("huge.weight",)
    assert plan(stored("huge.weight", 8192, 8192), *layers) == found


def test_nothing_to_factorise_makes_no_group() -> None:
    assert plan(stored("b", 6)).groups == ()


class TestOutputLayer:
    def test_the_last_of_a_chain_is_protected(self) -> None:
        found = plan(*MLP, protect_output=True)
        assert found["4.weight"].reason is Reason.OUTPUT_PROTECTED
        assert found["2.weight"].is_candidate
        assert found.output_layer == OutputLayer(name="4.weight", assumed=True)

    def test_the_architecture_knows_better(self) -> None:
        known = OutputLayer(name="2.weight", assumed=False)
        found = plan(*MLP, protect_output=True, output=known)
        assert found["2.weight"].reason is Reason.OUTPUT_PROTECTED
        assert found["4.weight"].is_candidate
        assert found.output_layer == known

    def test_unprotected_says_none(self) -> None:
        found = plan(*MLP, output=OutputLayer(name="4.weight", assumed=False))
        assert found["4.weight"].is_candidate
        assert found.output_layer is None

    def test_a_tied_output_protects_what_it_is_tied_to(self) -> None:
        tensors = (
            stored("embed.weight", 500, 64),
            stored("head.weight", 500, 64, alias_of="embed.weight"),
        )
        known = OutputLayer(name="head.weight", assumed=False)
        found = plan(*tensors, protect_output=True, output=known)
        assert found["embed.weight"].reason is Reason.OUTPUT_PROTECTED
        assert found["head.weight"].reason is Reason.TIED

    @pytest.mark.parametrize(
        ("shapes", "name"),
        [
            ({"a": (5, 4), "b": (6, 5), "c": (3, 6)}, "c"),  # in the file's order
            ({"l.10": (3, 6), "l.2": (5, 4), "l.9": (6, 5)}, "l.10"),  # in counting order
            ({"a": (4, 5), "b": (5, 6), "c": (6, 3)}, "c"),  # stored [in, out]
            ({"head": (3, 6), "in": (5, 4), "mid": (6, 5)}, "head"),  # by the shapes alone
            ({"q": (8, 8), "k": (8, 8), "mlp": (32, 16), "z": (9, 7)}, "z"),  # no chain: the last
            ({"only": (5, 4)}, "only"),
            ({"l.2": (8, 8), "l.10": (8, 8)}, "l.10"),
        ],
    )
    def test_guesses(self, shapes: dict[str, tuple[int, int]], name: str) -> None:
        tensors = [stored(n, *s) for n, s in shapes.items()]
        assert guess_output_layer(tensors) == OutputLayer(name=name, assumed=True)

    def test_no_matrix_no_output_layer(self) -> None:
        assert guess_output_layer([]) is None
        assert plan(stored("b", 6), protect_output=True).output_layer is None

    def test_integers_and_copies_are_no_output(self) -> None:
        tensors = (*MLP, stored("ids", 7, 10, dtype="int64"))
        assert plan(*tensors, protect_output=True).output_layer.name == "4.weight"


class TestOverrides:
    def test_the_first_match_wins(self) -> None:
        entries = [{"match": "0.*", "threshold": 0.5}, {"match": "*.weight", "rank": 7}]
        found = plan(*MLP, layers=entries)
        assert found["0.weight"].thresholds == (0.5,)
        assert found["0.weight"].rank is None
        assert found["2.weight"].rank == 7

    def test_keep_dense(self) -> None:
        found = plan(*MLP, layers=[{"match": "2.*", "keep_dense": True}])
        assert found["2.weight"].reason is Reason.KEEP_DENSE_REQUESTED
        assert found["2.bias"].reason is Reason.NOT_A_MATRIX

    def test_keep_dense_by_a_tied_name(self) -> None:
        tensors = (stored("e", 500, 64), stored("h", 500, 64, alias_of="e"))
        found = plan(*tensors, layers=[{"match": "h", "keep_dense": True}])
        assert found["e"].reason is Reason.KEEP_DENSE_REQUESTED

    def test_another_rule(self) -> None:
        found = plan(*MLP, layers=[{"match": "0.weight", "rule": "gavish_donoho"}])
        assert found["0.weight"].rule is Rule.GAVISH_DONOHO
        assert found["0.weight"].thresholds == (None,)
        assert found["2.weight"].rule is Rule.ENTROPY

    def test_several_thresholds_stay_several(self) -> None:
        request = JobRequest(model="m", threshold=0.9, layers=[{"match": "2.*", "threshold": 0.7}])
        found = make_plan(MLP, request, thresholds=(0.5, 0.9))
        assert found["0.weight"].thresholds == (0.5, 0.9)
        assert found["2.weight"].thresholds == (0.7, 0.7)

    @pytest.mark.parametrize(
        ("entries", "pointer"),
        [
            ([{"match": "*"}, {"match": "nothing.*"}], "/layers/1/match"),
            ([{"match": "0.WEIGHT"}], "/layers/0/match"),
            ([{"match": "*", "keep_dense": True, "threshold": 0.5}], "/layers/0/keep_dense"),
            ([{"match": "*", "rank": 3, "threshold": 0.5}], "/layers/0/rank"),
            ([{"match": "*", "rule": "gavish_donoho", "threshold": 0.5}], "/layers/0/threshold"),
        ],
    )
    def test_what_contradicts_is_refused(self, entries, pointer: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            plan(*MLP, layers=entries)
        assert [e.pointer for e in caught.value.errors] == [pointer]

    def test_a_rule_without_its_threshold_is_refused(self) -> None:
        with pytest.raises(InvalidRequest) as caught:
            plan(
                *MLP,
                rule="gavish_donoho",
                threshold=None,
                layers=[{"match": "*", "rule": "energy"}],
            )
        assert caught.value.errors[0].pointer == "/layers/0/threshold"


class TestKeys:
    def test_a_weight_becomes_a_sequential(self) -> None:
        assert plan(*MLP)["0.weight"].keys == FactorKeys(
            right="0.0.weight", left="0.1.weight", bias=("0.bias", "0.1.bias")
        )

    @pytest.mark.parametrize(
        ("name", "right", "left"),
        [
            ("a.weight", "a.0.weight", "a.1.weight"),
            ("weight", "0.weight", "1.weight"),
            ("a.in_proj_weight", "a.in_proj_weight.right", "a.in_proj_weight.left"),
        ],
    )
    def test_forms(self, name: str, right: str, left: str) -> None:
        assert factor_keys(name, Kind.MATRIX, {name}) == FactorKeys(right=right, left=left)

    def test_a_stack_of_experts_is_no_sequential(self) -> None:
        keys = factor_keys("e.weight", Kind.EXPERTS, {"e.weight"})
        assert keys == FactorKeys(right="e.weight.right", left="e.weight.left")

    @pytest.mark.parametrize("taken", ["a.0.weight", "a.1.weight", "a.1.bias"])
    def test_taken_keys_give_the_other_form_and_leave_the_bias(self, taken: str) -> None:
        found = plan(stored("a.weight", 64, 48), stored("a.bias", 64), stored(taken, 3))
        keys = found["a.weight"].keys
        assert keys == FactorKeys(right="a.weight.right", left="a.weight.left")

    def test_when_all_keys_are_taken_the_layer_stays_dense(self) -> None:
        others = (stored("a.0.weight", 3), stored("a.weight.left", 3))
        found = plan(stored("a.weight", 64, 48), *others)
        assert found["a.weight"].reason is Reason.KEY_COLLISION

    def test_no_two_layers_get_the_same_key(self) -> None:
        names = ("weight", "0.weight", "1.weight", "0.0.weight", "0.weight.right")
        found = plan(*(stored(n, 64, 48) for n in names))
        new = [key for p in found.tensors if p.keys for key in p.keys.new]
        assert len(new) == len(set(new))
        assert not set(new) & set(names)
