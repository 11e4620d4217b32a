"""The metrics that a task measures on given data, before anything is measured."""

from __future__ import annotations

from rankpress.names import Task
from worker.evaluation.data import DataPlan

ACCURACY = "accuracy"
TOP5 = "top5_accuracy"
MACRO_F1 = "macro_f1"
CROSS_ENTROPY = "cross_entropy"
CALIBRATION = "calibration_error"
EXACT_MATCH = "exact_match"
MAE = "mae"
MSE = "mse"
R2 = "r2"
PERPLEXITY = "perplexity"
COSINE = "cosine_to_dense"
SPEARMAN = "spearman"
AGREEMENT = "agreement"
RELATIVE_ERROR = "relative_output_error"
WORST_SAMPLE = "worst_relative_output_error"

TOP_K = 5


def bounded_metrics(task: Task, classes: int | None, data: DataPlan) -> tuple[str, ...]:
    """The names that `max_drop` may bound: those with an interval."""
    many = classes is None or classes >= TOP_K
    own: dict[Task, tuple[str, ...]] = {
        Task.CLASSIFICATION: (
            ACCURACY,
            *((TOP5,) if many else ()),
            MACRO_F1,
            CROSS_ENTROPY,
            CALIBRATION,
        ),
        Task.MULTILABEL: (ACCURACY, EXACT_MATCH, MACRO_F1, CROSS_ENTROPY),
        Task.REGRESSION: (MAE, MSE, R2),
        Task.LANGUAGE_MODELLING: (PERPLEXITY, CROSS_ENTROPY, ACCURACY),
        Task.EMBEDDING: (COSINE, *((SPEARMAN,) if data.paired else ())),
        Task.FIDELITY: (COSINE,),
    }
    decides = task not in (Task.REGRESSION, Task.EMBEDDING)
    return (*own[task], *((AGREEMENT,) if decides else ()), RELATIVE_ERROR)
