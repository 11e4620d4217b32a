"""Evaluation: `check_evaluation` and `verify_dense` before the factorisation, `evaluate` on the
written artifact."""

from worker.evaluation.dense import verify_dense
from worker.evaluation.plan import EvaluationPlan, check_evaluation
from worker.evaluation.score import evaluate

__all__ = ["EvaluationPlan", "check_evaluation", "evaluate", "verify_dense"]
