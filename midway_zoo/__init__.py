"""midway-zoo: Midway Network backbones as timm models, with motion latents and flow.

``import midway_zoo`` registers ``midway_vits``, ``midway_vitb`` and ``midway_nano`` with timm.
Paper: Hoang & Ren, ICLR 2026, https://arxiv.org/abs/2510.05558
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from midway_zoo import flow
from midway_zoo.config import MidwayConfig
from midway_zoo.errors import MidwayZooError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import DynamicsOutput, Features, FlowPrediction, MotionLatent, PerturbationHeatmap
from midway_zoo.version import __version__
from midway_zoo.weights.load import register_weights
from midway_zoo.weights.registry import create_model, list_models, load_checkpoint

if TYPE_CHECKING:
    from midway_zoo import visualize
    from midway_zoo.inference.features import extract_features
    from midway_zoo.inference.flow import predict_flow, predict_flows
    from midway_zoo.inference.motion import infer_motion_latent, infer_motion_latents
    from midway_zoo.inference.perturbation import perturbation_heatmap

__all__ = [
    "DynamicsOutput",
    "Features",
    "FlowPrediction",
    "MidwayConfig",
    "MidwayNetwork",
    "MidwayZooError",
    "MotionLatent",
    "PerturbationHeatmap",
    "__version__",
    "create_model",
    "extract_features",
    "flow",
    "infer_motion_latent",
    "infer_motion_latents",
    "list_models",
    "load_checkpoint",
    "perturbation_heatmap",
    "predict_flow",
    "predict_flows",
    "register_weights",
    "visualize",
]

# Read when first used.
_HOMES = {
    "extract_features": "inference.features",
    "infer_motion_latent": "inference.motion",
    "infer_motion_latents": "inference.motion",
    "perturbation_heatmap": "inference.perturbation",
    "predict_flow": "inference.flow",
    "predict_flows": "inference.flow",
    "visualize": "visualize",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOMES[name]}")
    globals()[name] = home if name == "visualize" else getattr(home, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
