"""Memory does not grow with the model: an eighth of `make memory`, in small layers.

Beyond idling, the worker holds what a few layers need while they are computed, some 0.3 to 0.5 GB
here, whatever their number. The bound is the file's own size: a copy of its layers kept anywhere,
even in bfloat16, would come on top of that and break it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.memory import API_LIMIT, Shape, measure


@pytest.mark.slow
def test_private_memory_is_less_than_the_model(tmp_path: Path) -> None:
    shape = Shape(layers=192, rows=4096, columns=512)
    assert shape.nbytes > 800e6
    measured = measure(tmp_path, shape, threads="2")  # the working set is by thread
    assert measured.factorised == shape.layers - 1  # the last is taken as the output layer
    assert measured.worker_beyond_idle < shape.nbytes, measured
    assert measured.api < API_LIMIT < shape.nbytes, measured
