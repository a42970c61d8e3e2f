"""A training source that needs no download: textured objects over a textured background, rendered on the fly
with exact flow, occlusion masks and labels.

    generator = SceneGenerator(ScenesConfig(height=64, width=64), seed=0)
    batch = generator.render(range(32))
"""

from midway_zoo.scenes.batch import SceneBatch
from midway_zoo.scenes.config import ScenesConfig
from midway_zoo.scenes.generator import SceneGenerator
from midway_zoo.scenes.pairs import ScenePair, ScenePairs
from midway_zoo.scenes.shapes import class_names

__all__ = ["SceneBatch", "SceneGenerator", "ScenePair", "ScenePairs", "ScenesConfig", "class_names"]
