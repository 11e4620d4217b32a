"""The metrics of each task: torchmetrics for the values, paired intervals for the differences."""

from __future__ import annotations

from rankpress.names import Task
from worker.evaluation.metrics.base import Scores
from worker.evaluation.metrics.classification import ClassificationScores
from worker.evaluation.metrics.embedding import EmbeddingScores
from worker.evaluation.metrics.fidelity import FidelityScores
from worker.evaluation.metrics.language import LanguageScores
from worker.evaluation.metrics.multilabel import MultilabelScores
from worker.evaluation.metrics.regression import RegressionScores


def scores_for(task: Task, samples: int, output_shape: tuple[int, ...]) -> list[Scores]:
    """What measures a task on `samples` outputs of `output_shape` (without the batch axis)."""
    fidelity = FidelityScores(samples, task, output_shape)
    match task:
        case Task.CLASSIFICATION:
            return [ClassificationScores(samples, output_shape[-1]), fidelity]
        case Task.MULTILABEL:
            return [MultilabelScores(samples, output_shape[-1]), fidelity]
        case Task.REGRESSION:
            return [RegressionScores(samples, output_shape), fidelity]
        case Task.LANGUAGE_MODELLING:
            return [LanguageScores(samples), fidelity]
        case Task.EMBEDDING:
            return [EmbeddingScores(samples), fidelity]
        case Task.FIDELITY:
            return [EmbeddingScores(samples), fidelity]
