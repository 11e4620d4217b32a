"""An architecture from code that the operator installed, by its name."""

from worker.evaluation.factory.architecture import FactoryArchitecture, load_architecture

__all__ = ["FactoryArchitecture", "load_architecture"]
