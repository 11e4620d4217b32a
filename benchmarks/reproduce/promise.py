"""Does the rule auto keep its promise? A hundred searches on samples drawn anew, each judged on the
images that it did not see.

    python -m benchmarks.reproduce.promise --data mnist --seeds 0

The factors are made once; what is repeated is the draw and the search, by the product's own code.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.reproduce.asked import mlps
from benchmarks.reproduce.data import DataSet, write_uploads
from benchmarks.reproduce.measured import kept
from benchmarks.reproduce.rules import BOUND
from rankpress.names import Sensitivity
from rankpress.schemas.report import Metric
from rankpress.schemas.request import JobRequest
from worker.child.messages import Allocate, Calibrate, Factorise, JobInputs, Limits, Read, joined
from worker.evaluation.intervals import mcnemar_cells, paired_proportions
from worker.pipeline import Pipeline
from worker.ranks.allocation import Ranked
from worker.ranks.auto import candidates, smallest
from worker.ranks.ranking import Ranking
from worker.read.opened import open_job
from worker.write.parts import open_parts

REPETITIONS = 100
SEARCH = 5_000  # samples of each search


def main() -> None:
    for data, seed, path in mlps(__doc__):
        for sensitivity in Sensitivity:
            row = repeated(data, path, sensitivity)
            kept(f"promise/{data.name}/{seed}/{sensitivity}", row)
            print(data.name, seed, sensitivity, row, flush=True)


def repeated(data: DataSet, model: Path, sensitivity: Sensitivity) -> dict[str, Any]:
    """How often the model found loses no more than BOUND on the images held out, by count."""
    images = torch.cat([data.validation.images, data.test.images])
    labels = torch.cat([data.validation.labels, data.test.labels])
    with tempfile.TemporaryDirectory() as folder:
        path, right, dense = _answers(data, model, images, labels, Path(folder), sensitivity)
    held_to, drops, shares = 0, [], []
    for repetition in range(REPETITIONS):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(repetition))
        search, held = order[:SEARCH], order[SEARCH:]
        found = smallest(
            path,
            _scorer(right, dense, search),
            {"accuracy": BOUND},
            lambda done, total: None,
        )
        if found.ranked is None:
            held_to += 1
            continue
        answers = right[found.ranked.cost]
        drop = float(dense[held].double().mean() - answers[held].double().mean())
        held_to += drop <= BOUND
        drops.append(drop)
        shares.append(found.ranked.cost / found.ranked.whole)
    return {
        "repetitions": REPETITIONS,
        "kept": held_to,
        "found": len(drops),
        "largest_drop": max(drops, default=0.0),
        "median_share": sorted(shares)[len(shares) // 2] if shares else None,
    }


def _scorer(
    right: dict[int, torch.Tensor], dense: torch.Tensor, places: torch.Tensor
) -> Callable[[Ranked], list[Metric]]:
    def score(ranked: Ranked) -> list[Metric]:
        d, c = dense[places], right[ranked.cost][places]
        interval = paired_proportions(*(int(cell.sum()) for cell in mcnemar_cells(d, c)))
        return [
            Metric(
                name="accuracy",
                dense=float(d.double().mean()),
                compressed=float(c.double().mean()),
                difference=float(c.double().mean() - d.double().mean()),
                interval=interval,
                higher_is_better=True,
            )
        ]

    return score


def _answers(
    data: DataSet,
    model: Path,
    images: torch.Tensor,
    labels: torch.Tensor,
    folder: Path,
    sensitivity: Sensitivity,
) -> tuple[list[Ranked], dict[int, torch.Tensor], torch.Tensor]:
    """The path of candidates, and for each (by its cost) and the dense model which of the images
    it gets right."""
    save_file({"inputs": images[:10], "targets": labels[:10]}, folder / "some")
    inputs = JobInputs(
        request=JobRequest.model_validate(
            {
                "model": "m",
                "rule": "auto",
                "aware": "two_sided",
                "sensitivity": sensitivity,
                "evaluation": {
                    "validation": "v",
                    "calibration": "c",
                    "max_drop": {"accuracy": BOUND},
                },
            }
        ),
        models=(model,),
        model_names=(None,),
        validation=folder / "some",
        calibration=write_uploads(data)["calibration"],
        statistics=folder / "statistics",
        limits=Limits(threads=1),
    )
    pipeline = Pipeline()
    groups = pipeline.read(Read(inputs=inputs)).groups
    pipeline.calibrate(Calibrate(inputs=inputs))
    parts = tuple(folder / f"part-{i}" for i in range(len(groups)))
    made = [
        pipeline.factorise(
            Factorise(inputs=inputs, names=names, part=part), lambda done, total: None
        )
        for names, part in zip(groups, parts, strict=True)
    ]
    opened = open_job(inputs)
    assert opened.evaluation is not None
    with open_parts(parts) as stored:
        ranking = Ranking(
            model=opened.model,
            plan=opened.plan,
            command=Allocate(inputs=inputs, factorised=joined(made, 1), parts=parts),
            parts=stored,
            statistics=opened.statistics(),
            evaluation=opened.evaluation,
            roles=opened.roles,
            device=torch.device("cpu"),
        )
        path = list(candidates(ranking.ranker()))
        dense = dict.fromkeys(layer.name for layer in ranking.command.factorised.wide)
        with torch.inference_mode():
            before = ranking.network(dense)({"inputs": images}).argmax(dim=1) == labels
            right = {
                ranked.cost: ranking.network(ranked.ranks)({"inputs": images}).argmax(dim=1)
                == labels
                for ranked in path
            }
    return path, right, before


if __name__ == "__main__":
    main()
