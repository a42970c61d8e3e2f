"""midway-zoo: Midway Network backbones as timm models, with motion latents and flow.

``import midway_zoo`` registers ``midway_vits``, ``midway_vitb`` and ``midway_nano`` with timm, before or after timm is
imported. Everything else is imported when it is first asked for, so that a program pays for what it uses.
Paper: Hoang & Ren, ICLR 2026, https://arxiv.org/abs/2510.05558
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from midway_zoo.errors import MidwayZooError
from midway_zoo.timm_hook import register_encoders
from midway_zoo.version import __version__

if TYPE_CHECKING:
    from midway_zoo import flow, visualize
    from midway_zoo.config import MidwayConfig
    from midway_zoo.exporting.api import export
    from midway_zoo.inference.clips import infer_motion_latents, predict_flows
    from midway_zoo.inference.features import extract_features
    from midway_zoo.inference.flow import predict_flow
    from midway_zoo.inference.heatmap import perturbation_heatmap
    from midway_zoo.inference.motion import infer_motion_latent
    from midway_zoo.inference.stream import MotionStream
    from midway_zoo.inference.video import read_video
    from midway_zoo.models.network import MidwayNetwork
    from midway_zoo.names import list_models
    from midway_zoo.readouts.segmenter_files import load_segmenter
    from midway_zoo.results import (
        DynamicsOutput,
        Features,
        FlowPrediction,
        MotionLatent,
        PerturbationHeatmap,
        Segmentation,
    )
    from midway_zoo.weights.checkpoint import load_checkpoint
    from midway_zoo.weights.own import register_weights
    from midway_zoo.weights.registry import create_model

# Module -> the public names that live in it; a name that is its module's own stands for the module itself.
_HOMES = {
    "config": ("MidwayConfig",),
    "exporting.api": ("export",),
    "flow": ("flow",),
    "inference.features": ("extract_features",),
    "inference.clips": ("infer_motion_latents", "predict_flows"),
    "inference.flow": ("predict_flow",),
    "inference.motion": ("infer_motion_latent",),
    "inference.stream": ("MotionStream",),
    "inference.heatmap": ("perturbation_heatmap",),
    "inference.video": ("read_video",),
    "models.network": ("MidwayNetwork",),
    "names": ("list_models",),
    "readouts.segmenter_files": ("load_segmenter",),
    "results": ("DynamicsOutput", "Features", "FlowPrediction", "MotionLatent", "PerturbationHeatmap", "Segmentation"),
    "visualize": ("visualize",),
    "weights.checkpoint": ("load_checkpoint",),
    "weights.own": ("register_weights",),
    "weights.registry": ("create_model",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DynamicsOutput",
    "Features",
    "FlowPrediction",
    "MidwayConfig",
    "MidwayNetwork",
    "MidwayZooError",
    "MotionLatent",
    "MotionStream",
    "PerturbationHeatmap",
    "Segmentation",
    "__version__",
    "create_model",
    "export",
    "extract_features",
    "flow",
    "infer_motion_latent",
    "infer_motion_latents",
    "list_models",
    "load_checkpoint",
    "load_segmenter",
    "perturbation_heatmap",
    "predict_flow",
    "predict_flows",
    "read_video",
    "register_weights",
    "visualize",
]

register_encoders()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOME[name]}")
    value = home if name == _HOME[name] else getattr(home, name)
    globals()[name] = value  # the next look-up finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
