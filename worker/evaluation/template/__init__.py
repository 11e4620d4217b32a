"""An uploaded ONNX graph without weights, bound to a state_dict by name."""

from worker.evaluation.template.architecture import TemplateArchitecture, load_architecture

__all__ = ["TemplateArchitecture", "load_architecture"]
