"""Orders of linear layers from shapes and names."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.evaluation.chain import LinearLayer, NoChain, SeveralChains, natural_key, order_chain


def layer(name: str, inputs: int, outputs: int) -> LinearLayer:
    return LinearLayer(weight=name, bias=None, in_features=inputs, out_features=outputs)


def names(layers) -> list[str]:
    return [each.weight for each in layers]


def test_numbers_are_compared_as_numbers():
    found = sorted(["net.10.weight", "net.2.weight", "net.0.weight"], key=natural_key)
    assert found == ["net.0.weight", "net.2.weight", "net.10.weight"]


def test_square_layers_follow_their_numbers_and_not_the_file():
    layers = [layer(f"net.{i}.weight", 8, 8) for i in (0, 10, 2, 4)]
    assert names(order_chain(layers, 8)) == [f"net.{i}.weight" for i in (0, 2, 4, 10)]


def test_shapes_decide_between_names_without_numbers():
    layers = [layer("decoder", 3, 9), layer("encoder", 8, 5), layer("bottleneck", 5, 3)]
    assert names(order_chain(layers, 8)) == ["encoder", "bottleneck", "decoder"]


def test_the_datas_width_says_where_a_circle_begins():
    layers = [layer("a", 7, 3), layer("b", 3, 7)]
    assert names(order_chain(layers, 7)) == ["a", "b"]
    assert names(order_chain(layers, 3)) == ["b", "a"]


def test_numbers_that_count_down_leave_it_to_the_shapes():
    layers = [layer("up.3", 4, 8), layer("up.2", 8, 16), layer("up.1", 16, 32)]
    assert names(order_chain(layers, 4)) == ["up.3", "up.2", "up.1"]


def test_groups_of_numbered_layers_between_named_ones():
    layers = [
        layer("head", 8, 10),
        layer("hidden.10", 8, 8),
        layer("hidden.9", 8, 8),
        layer("stem", 20, 8),
    ]
    assert names(order_chain(layers, 20)) == ["stem", "hidden.9", "hidden.10", "head"]


def test_what_cannot_be_told_is_not_guessed():
    with pytest.raises(SeveralChains) as several:
        order_chain([layer("a", 8, 8), layer("b", 8, 8)], 8)
    assert names(several.value.first) != names(several.value.second)


@pytest.mark.parametrize(
    "layers", [[layer("a", 8, 4), layer("b", 5, 2)], [layer("a", 7, 4)], [layer("a", 8, 4)] * 2]
)
def test_no_order(layers):
    with pytest.raises(NoChain):
        order_chain(layers, 8)


def test_many_square_layers_are_quick():
    layers = [layer(f"{i}.weight", 64, 64) for i in range(400)]
    assert len(order_chain(layers, 64)) == 400


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_any_numbered_chain_is_found_from_any_file_order(widths, random):
    layers = [layer(f"net.{2 * i}.weight", a, b) for i, (a, b) in enumerate(pairwise(widths))]
    shuffled = layers[:]
    random.shuffle(shuffled)
    assert order_chain(shuffled, widths[0]) == tuple(layers)
