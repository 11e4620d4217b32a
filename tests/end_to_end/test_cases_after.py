"""The cases that need more than one job: an evaluation that must change nothing, and a crash."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save, save_file

from rankpress import Client, export_template
from rankpress.names import Stage, State
from rankpress.service.engine import Engine
from tests.end_to_end.cases.after import network
from tests.end_to_end.cases.tools import noise
from tests.end_to_end.processes import Service, wait_until

LAYERS = 289


def test_batch_norm_statistics_are_not_changed_by_the_evaluation(
    sqlite_service: Service, tmp_path: Path
) -> None:
    model = network()
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    export_template(model, noise(2, 64), tmp_path / "template")
    samples = io.BytesIO()
    np.savez(samples, inputs=noise(300, 64).numpy(), targets=np.arange(300) % 80)
    with Client(sqlite_service.url) as client:
        weights = client.upload_bytes(save(state), filename="m.safetensors").id
        plain = client.wait(client.submit(model=weights, threshold=0.9).id)
        evaluated = client.wait(
            client.submit(
                model=weights,
                threshold=0.9,
                evaluation={
                    "validation": client.upload_bytes(samples.getvalue()).id,
                    "architecture": {
                        "kind": "template",
                        "template": client.upload(tmp_path / "template").id,
                    },
                },
            ).id
        )
        reports = [client.report(job.id) for job in (plain, evaluated)]
        out = load_file(client.download(evaluated.id, tmp_path / "out.safetensors"))
    assert reports[1].evaluation is not None
    assert reports[1].evaluation.samples == 300
    assert reports[0].output_sha256 == reports[1].output_sha256
    for key in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        assert torch.equal(out[key], state[key])


def test_a_crash_near_the_end_resumes_at_the_layer_where_it_stopped(tmp_path: Path) -> None:
    """289 layers, the last of them slow: killed in it, the job computes none of the others again.
    Their parts in the store are those that were written before the crash."""
    generator = torch.Generator().manual_seed(0)
    state = {f"layers.{i:03d}": torch.randn(40, 30, generator=generator) for i in range(LAYERS - 1)}
    state["layers.288"] = torch.randn(5000, 4200, generator=generator)
    save_file(state, tmp_path / "model.safetensors")
    running = Service(tmp_path, threads="1")
    try:
        running.start_api()
        running.start_worker()
        with Client(running.url) as client:
            upload = client.upload(tmp_path / "model.safetensors").id
            job = client.submit(model=upload, threshold=0.3, rule="ratio", protect_output=False)
            wait_until(
                lambda: _runs(client, job.id) and _factorise_steps(running, job.id),
                seconds=300,
                what="the last layer",
            )
            before = _parts(running)
            running.kill_worker()
            steps = _factorise_steps(running, job.id)
            assert len(before) == steps
            running.start_worker()

            def ended() -> bool:
                found = _parts(running)
                assert all(found[name] == at for name, at in before.items() if name in found)
                return client.get(job.id).state.terminal

            wait_until(ended, seconds=300, what="the end")
            assert client.get(job.id).state is State.SUCCEEDED
            report = client.report(job.id)
            assert len(report.layers) == LAYERS
            assert _factorise_steps(running, job.id) == steps + 1
    finally:
        running.stop()


def _runs(client: Client, job_id: str) -> bool:
    job = client.get(job_id)
    assert not job.state.terminal, job
    return job.stage is Stage.FACTORISE


def _parts(running: Service) -> dict[str, int]:
    root = running.settings.data_dir / "store"
    return {
        name: (root / name).stat().st_mtime_ns
        for name in running.stored()
        if "/parts/" in name and (root / name).exists()
    }


def _factorise_steps(running: Service, job_id: str) -> int:
    engine = Engine(running.settings)
    names = engine.steps("default", job_id)
    engine.close()
    return names.count("factorise")
