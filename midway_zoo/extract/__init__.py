"""Extract features, motion latents and flow of many videos and images into shards: resumable, on one machine or many.

>>> from midway_zoo.extract import Extracted, Settings, extract
>>> extract("midway_nano.scenes", "videos", "out", Settings(what=("features", "motion"), fps=5))
>>> for item, tensors in Extracted("out"):
...     tensors["cls"]
"""

from midway_zoo.extract.reading import Extracted
from midway_zoo.extract.run import Running, Summary, extract
from midway_zoo.extract.settings import Settings

__all__ = ["Extracted", "Running", "Settings", "Summary", "extract"]
