"""Questions about a network rather than a picture: which token feeds which, where points go, how motions compare.

Not part of ``import midway_zoo``: write ``import midway_zoo.analysis``, after which ``mz.analysis`` works too. Points
are (x, y) in pixels of the images as given, with the centres of pixels at integers: the upper left pixel is (0, 0),
and a token of 16 pixels that starts there has its centre at (7.5, 7.5).
"""

from midway_zoo.analysis.attention import AttentionMaps, MotionAttention, attention_maps, motion_attention
from midway_zoo.analysis.carries import LatentReport, latent_report
from midway_zoo.analysis.components import Components, components_of, principal_components
from midway_zoo.analysis.fresh import ungated, untrained
from midway_zoo.analysis.gates import GateMaps, gate_maps
from midway_zoo.analysis.heat import HeatMaps, heat_maps
from midway_zoo.analysis.latents import ClipSimilarity, clip_similarity, latent_similarity
from midway_zoo.analysis.matrix import SensitivityMatrix, identity_share, sensitivity_matrix, sensitivity_rows
from midway_zoo.analysis.points import chain_flow, flow_at, pck
from midway_zoo.analysis.retrieval import Match, MotionIndex, find_clips, find_motion, index_clips
from midway_zoo.analysis.retrieved import RetrievalScores, retrieval_truth
from midway_zoo.analysis.rules import RULES, track_by
from midway_zoo.analysis.tracking import Tracks, track
from midway_zoo.analysis.truth import TruthScores, tracking_truth, truth_variants

__all__ = [
    "RULES",
    "AttentionMaps",
    "ClipSimilarity",
    "Components",
    "GateMaps",
    "HeatMaps",
    "LatentReport",
    "Match",
    "MotionAttention",
    "MotionIndex",
    "RetrievalScores",
    "SensitivityMatrix",
    "Tracks",
    "TruthScores",
    "attention_maps",
    "chain_flow",
    "clip_similarity",
    "components_of",
    "find_clips",
    "find_motion",
    "flow_at",
    "gate_maps",
    "heat_maps",
    "identity_share",
    "index_clips",
    "latent_report",
    "latent_similarity",
    "motion_attention",
    "pck",
    "principal_components",
    "retrieval_truth",
    "sensitivity_matrix",
    "sensitivity_rows",
    "track",
    "track_by",
    "tracking_truth",
    "truth_variants",
    "ungated",
    "untrained",
]
