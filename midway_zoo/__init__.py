"""midway-zoo: Midway Network backbones as timm models, with motion latents and flow.

``import midway_zoo`` registers ``midway_vits``, ``midway_vitb`` and ``midway_nano`` with timm.
Paper: Hoang & Ren, ICLR 2026, https://arxiv.org/abs/2510.05558
"""

from midway_zoo import flow, visualize
from midway_zoo.config import MidwayConfig
from midway_zoo.errors import MidwayZooError
from midway_zoo.inference.api import (
    extract_features,
    infer_motion_latent,
    perturbation_heatmap,
    predict_flow,
    predict_flows,
)
from midway_zoo.inference.motion import infer_motion_latents
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.results import DynamicsOutput, Features, FlowPrediction, MotionLatent, PerturbationHeatmap
from midway_zoo.version import __version__
from midway_zoo.weights.load import register_weights
from midway_zoo.weights.registry import create_model, list_models, load_checkpoint

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
