"""A Prefect flow: several thresholds, the smallest that keeps the accuracy, its file.

python prefect_flow.py model.safetensors validation.safetensors small.safetensors
"""

from __future__ import annotations

import os
import sys

from prefect import flow, get_run_logger, task

from rankpress import Client

THRESHOLDS = (0.3, 0.5, 0.7, 0.9)


def connect() -> Client:
    url = os.environ.get("RANKPRESS_URL", "http://127.0.0.1:8000")
    return Client(url, api_key=os.environ.get("RANKPRESS_API_KEY"))


@task(retries=2, retry_delay_seconds=10)
def measure(model: str, validation: str) -> dict[str, object]:
    """One job for all thresholds. What goes between tasks is plain data."""
    with connect() as client:
        found = client.frontier(model, thresholds=THRESHOLDS, validation=validation)
    points = []
    for point in found.points:
        accuracy = next(m for m in point.metrics if m.name == "accuracy")
        points.append(
            {
                "index": point.index,
                "threshold": point.threshold,
                "bytes": point.bytes_after,
                "drop": -accuracy.difference,
                "surely_at_most": -accuracy.interval.low,
            }
        )
    return {"job": found.job.id, "points": points}


@task
def choose(points: list[dict[str, float]], max_drop: float) -> dict[str, float]:
    """The smallest whose loss is surely within the bound. Raises when there is none."""
    fit = [p for p in points if p["surely_at_most"] <= max_drop]
    if not fit:
        raise ValueError(f"no threshold keeps the accuracy within {max_drop:g}")
    return min(fit, key=lambda p: p["bytes"])


@task(retries=2, retry_delay_seconds=10)
def fetch(job: str, index: int, path: str) -> str:
    with connect() as client:
        return str(client.download(job, path, result=index))


@flow(name="compress")
def compress(model: str, validation: str, output: str, max_drop: float = 0.02) -> str:
    found = measure(model, validation)
    chosen = choose(found["points"], max_drop)
    get_run_logger().info("threshold %s, %s bytes", chosen["threshold"], chosen["bytes"])
    return fetch(found["job"], chosen["index"], output)


if __name__ == "__main__":
    print(compress(*sys.argv[1:4]))
