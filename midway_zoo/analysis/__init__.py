"""Questions about a network rather than a picture: which token feeds which, where points go, how motions compare.

Not part of ``import midway_zoo``: write ``import midway_zoo.analysis``, after which ``mz.analysis`` works too. Points
are (x, y) in pixels of the images as given, with the centres of pixels at integers: the upper left pixel is (0, 0),
and a token of 16 pixels that starts there has its centre at (7.5, 7.5).
"""

from midway_zoo.analysis.latents import latent_similarity
from midway_zoo.analysis.matrix import SensitivityMatrix, identity_share, sensitivity_matrix
from midway_zoo.analysis.points import chain_flow, flow_at, pck
from midway_zoo.analysis.tracking import Tracks, track

__all__ = [
    "SensitivityMatrix",
    "Tracks",
    "chain_flow",
    "flow_at",
    "identity_share",
    "latent_similarity",
    "pck",
    "sensitivity_matrix",
    "track",
]
