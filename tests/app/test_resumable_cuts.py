"""200 uploads, each cut at random bytes by closing its connection, and resumed."""

from __future__ import annotations

import random
import shutil
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from rankpress.service import keys
from rankpress.service.store import Store
from tests.app import rawhttp
from tests.app.appkit import sha256
from tests.app.conftest import Served, served, small
from tests.app.test_resumable import begin, offset, patch

UPLOADS = 200
MAX_CUTS = 4  # of one upload


@pytest.fixture
def roomy(migrated: Path, tmp_path: Path) -> Iterator[Served]:
    settings = small(Path(shutil.copytree(migrated, tmp_path / "data")))
    with served(settings.model_copy(update={"max_upload_bytes": 4_000_000})) as running:
        yield running


def cut(service: Served, url: str, data: bytes, at: int, rng: random.Random) -> int:
    """A request that announces all the rest, closed before the last byte; where its bytes end."""
    fields = {
        "Content_Type": "application/partial-upload",
        "Content_Length": str(len(data) - at),
        "Upload_Offset": str(at),
        "Upload_Complete": "?1",
    }
    end = at + rng.randrange(len(data) - at)
    with rawhttp.connect(service) as connection:
        connection.sendall(rawhttp.head("PATCH", url, **fields) + data[at:end])
        match rng.randrange(3):
            case 0:  # stopped by the question where it stands, while it is still connected
                offset(service.client, url)
            case 1:  # some of it has been stored when the connection breaks
                time.sleep(0.01)
        if rng.random() < 0.5:  # reset instead of an orderly end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return end


def finish(service: Served, url: str, data: bytes, at: int, furthest: int) -> dict[str, Any]:
    """Sends the rest. The question may overtake a request that was cut, on its way to the service,
    and so may these: the late request's bytes are stored after the answer, or it takes the upload
    over from this one. Either way 409 tells the true offset."""
    response = patch(service.client, url, data[at:], at, complete=True)
    while response.status_code == 409:
        found = int(response.headers["upload-offset"])
        if response.json()["type"].endswith(":conflict"):
            furthest = max(furthest, found := offset(service.client, url))
        else:
            assert response.json()["type"].endswith(":upload-offset-mismatch")
            assert at < found
        assert at <= found <= furthest
        at = found
        response = patch(service.client, url, data[at:], at, complete=True)
    assert response.status_code == 200, response.text
    return dict(response.json())


@pytest.mark.slow
def test_200_uploads_cut_at_random_bytes(roomy: Served, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(20)
    store = Store(roomy.settings.store_url)
    right = kept = 0
    for _ in range(UPLOADS):
        values = np.frombuffer(rng.randbytes(4 * rng.randrange(250_000, 750_000)), np.float32)
        data = save({"w": values})
        url, at, furthest = begin(roomy.client, Upload_Length=str(len(data))), 0, 0
        for _ in range(rng.randint(1, MAX_CUTS)):
            furthest = max(furthest, cut(roomy, url, data, at, rng))
            before, at = at, offset(roomy.client, url)
            assert before <= at <= furthest
            kept += at > before
        upload = finish(roomy, url, data, at, furthest)
        with store.open(keys.upload_data("default", upload["id"])) as file:
            right += upload["sha256"] == sha256(data) == sha256(file.read())
        assert roomy.client.delete(url).status_code == 204  # the disk is not the point
    assert right == UPLOADS
    assert kept > UPLOADS / 2  # what came before a cut was kept, and not sent anew
    assert roomy.stored() == []
    assert "never retrieved" not in caplog.text
