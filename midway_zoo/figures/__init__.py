"""Pictures of what `midway_zoo.analysis` finds, for print and slides: the extra `figures` (Matplotlib).

Each function returns a Matplotlib figure; :func:`save_figure` writes it as PNG, SVG or PDF, :func:`figure_to_tensor`
gives its pixels. pyplot is not used, so no window is opened and any thread may draw.
"""

from midway_zoo.figures.bars import found_figure, latent_figure, truth_figure
from midway_zoo.figures.canvas import PICTURES, figure_to_tensor, save_figure
from midway_zoo.figures.clips import components_figure, retrieval_figure, similarity_figure, tracks_figure
from midway_zoo.figures.pairs import attention_figure, backward_figure, gates_figure, heat_figure, matrix_figure

__all__ = [
    "PICTURES",
    "attention_figure",
    "backward_figure",
    "components_figure",
    "figure_to_tensor",
    "found_figure",
    "gates_figure",
    "heat_figure",
    "latent_figure",
    "matrix_figure",
    "retrieval_figure",
    "save_figure",
    "similarity_figure",
    "tracks_figure",
    "truth_figure",
]
