"""Descriptions written back as pickles."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankpress.errors import (
    CorruptFile,
    InvalidFile,
)
from rankpress.formats import Limits
from rankpress.formats.binary import Cursor
from rankpress.formats.unpickling import read_pickle
from tests.worker.checkpoint.checkpoint_tools import training_checkpoint, written
from worker.checkpoint import open_checkpoint
from worker.checkpoint.pickling import dumps


def test_a_list_may_contain_itself(tmp_path: Path) -> None:
    loop: list[Any] = []
    loop.append((loop,))
    torch.save({"w": torch.ones(2, 2), "loop": loop}, tmp_path / "in")
    written(open_checkpoint([tmp_path / "in"]), tmp_path / "out")
    found = torch.load(tmp_path / "out", weights_only=True)["loop"]
    assert found[0][0] is found


def test_a_tuple_that_leads_back_to_itself_ends() -> None:
    """Only damaged or hostile pickles hold a tuple that is not finished before it is used."""
    loop: list[Any] = []
    pair = (loop, 1)
    loop.append(pair)
    with pytest.raises(CorruptFile, match="contains itself"):
        dumps(pair)
    shared = (1, 2, 3, 4)
    assert pickle.loads(dumps([shared, shared, {"a": shared}])) == [shared, shared, {"a": shared}]


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**2000), 2**2000)
        | st.floats(allow_nan=False)
        | st.text()
        | st.binary(),
        lambda inner: (
            st.lists(inner)
            | st.lists(inner).map(tuple)
            | st.dictionaries(st.text() | st.integers(), inner)
        ),
    )
)
def test_what_is_read_is_written(value: Any) -> None:
    """Python's pickle, read into a description, written from it, read by Python's pickle."""
    for protocol in range(6):
        data = pickle.dumps(value, protocol)
        try:
            described = read_pickle(Cursor(io.BytesIO(data), len(data)), Limits())
        except InvalidFile:
            # They spell out empty bytes and long texts in ways that no checkpoint has.
            assert protocol < 3
            continue
        assert pickle.loads(dumps(described)) == value


def test_reading_of_a_stream_needs_no_torch_load(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No unpickler that could run anything is ever called."""
    torch.save(training_checkpoint(), tmp_path / "in")

    def never(*args: object, **options: object) -> None:
        raise AssertionError("a pickle was loaded")

    monkeypatch.setattr(torch, "load", never)
    monkeypatch.setattr("pickle.Unpickler", never)
    monkeypatch.setattr("pickle.load", never)
    monkeypatch.setattr("pickle.loads", never)
    checkpoint = open_checkpoint([tmp_path / "in"])
    written(checkpoint, tmp_path / "out")
    assert io.BytesIO((tmp_path / "out").read_bytes()).read(2) == b"PK"
