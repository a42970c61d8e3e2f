"""What scenes can be configured to be, their classes, their textures from images, and pairs for a loader."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.utils.data import DataLoader

from midway_zoo.errors import ConfigError, InputError, MissingFileError
from midway_zoo.scenes import SceneGenerator, ScenePair, ScenePairs, ScenesConfig, class_names
from midway_zoo.scenes.draws import Draws
from midway_zoo.scenes.natural import picture
from midway_zoo.scenes.shapes import SHAPES, signed_distance


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 4}, "height=4 must be at least 8"),
        ({"width": 64.0}, "width=64.0 must be an integer: at least 8"),
        ({"frames": 0}, "frames=0"),
        ({"objects": (3, 1)}, "the smallest first"),
        ({"objects": (1, 33)}, "between 0 and 32"),
        ({"objects": (-1, 3)}, r"objects=\[-1, 3\]"),
        ({"objects": 3}, "2 numbers"),
        ({"size": (0.0, 0.2)}, "size=.*positive"),
        ({"period": (1.0, 5.0)}, "period=.*at least 2"),
        ({"period": (float("nan"), 5.0)}, r"period=\[nan"),
        ({"motion": -1.0}, "motion=-1.0 must be at least 0"),
        ({"motion": float("inf")}, "motion=inf"),
        ({"zoom": 0.9}, "zoom=0.9 must be between 0 and 0.5"),
        ({"stretch": 0.5}, "stretch=0.5"),
        ({"lighting": 2.0}, "lighting=2.0"),
        ({"noise": "much"}, "noise='much'"),
        ({"classes": 31}, "classes=31: there are 30"),
        ({"classes": 0}, "classes=0"),
        ({"textures": "photos", "classes": 7}, "classes=7: there are 6 shapes"),
        ({"textures": ""}, "textures=''"),
    ],
)
def test_values_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScenesConfig(**changes)


def test_omegaconf_fills_it() -> None:
    schema = OmegaConf.structured(ScenesConfig)
    merged = OmegaConf.merge(schema, OmegaConf.from_dotlist(["height=32", "objects=[1,2]", "classes=20"]))
    config = OmegaConf.to_object(merged)
    assert isinstance(config, ScenesConfig)
    assert config == ScenesConfig(height=32, objects=(1, 2), classes=20)
    assert config.num_classes == 20


def test_neither_shape_nor_texture_alone_tells_classes_apart() -> None:
    names = class_names(12)
    assert names[0] == "background"
    assert len(set(names)) == 13
    shapes, textures = zip(*(name.split() for name in names[1:]), strict=True)
    assert len(set(shapes)) == 6
    assert len(set(textures)) == 5
    assert all(shapes.count(shape) > 1 for shape in shapes)
    assert all(textures.count(texture) > 1 for texture in textures)
    assert len(set(class_names(30))) == 31
    assert class_names(3, procedural=False) == ["background", "disc", "square", "star"]


@pytest.mark.parametrize(
    ("name", "area"),
    [("disc", 2.545), ("square", 2.56), ("star", 1.2), ("ring", 2.639), ("triangle", 1.871), ("cross", 2.04)],
)
def test_areas_and_distances_of_shapes(name: str, area: float) -> None:
    shape, step = SHAPES[name], 0.01
    line = torch.arange(-1.5, 1.5, step) + step / 2
    v, u = torch.meshgrid(line, line, indexing="ij")
    numbers = torch.tensor(shape.numbers).reshape(3, 1, 1, 1)
    distance = signed_distance(shape.formula, u[None].clone(), v[None].clone(), numbers)[0]
    assert (distance < 0).float().sum().item() * step**2 == pytest.approx(area, rel=0.02)
    slope = torch.stack(torch.gradient(distance, spacing=step)).norm(dim=0)
    outline = distance.abs() < 0.03
    assert slope[outline].median().item() == pytest.approx(1, abs=0.01)
    # The outline is where a class is recognised: the shape reaches 0.8 to 1.3 radii.
    assert 0.8 < torch.hypot(u, v)[distance < 0].max() < 1.3


def test_draws_are_even_and_unrelated() -> None:
    values = Draws(0, np.arange(2000)).uniform(20)
    assert values.shape == (2000, 20)
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.histogram(values, bins=50, range=(0, 1))[0]
    assert ((counts - 800) ** 2 / 800).sum() < 86  # chi-squared, 49 degrees of freedom: p = 0.001
    between = np.corrcoef(values.T) - np.eye(20)
    assert np.abs(between).max() < 0.1
    along = [np.corrcoef(values[:-lag].ravel(), values[lag:].ravel())[0, 1] for lag in (1, 2, 64)]
    assert np.abs(along).max() < 0.02
    again = Draws(0, np.array([1999, 5]))
    first = again.uniform(7)
    np.testing.assert_array_equal(np.concatenate([first, again.uniform(13)], axis=1), values[[1999, 5]])
    assert not np.allclose(Draws(-1, np.arange(3)).uniform(4), Draws(1, np.arange(3)).uniform(4))
    assert Draws(0, np.arange(500)).whole(4, low=2, high=5).min() == 2
    assert Draws(0, np.arange(500)).whole(4, low=2, high=5).max() == 5


def write_images(folder: Path, colours: list[tuple[int, int, int]]) -> str:
    (folder / "deeper").mkdir(parents=True)
    for number, colour in enumerate(colours):
        Image.new("RGB", (50, 40), colour).save(folder / "deeper" / f"{number}.png")
    return str(folder)


def test_images_as_textures_are_shown_as_they_are(tmp_path: Path) -> None:
    colours = [(200, 10, 30), (20, 180, 90), (40, 60, 250)]
    folder = write_images(tmp_path / "images", colours)
    (tmp_path / "images" / "notes.txt").write_text("no image")
    config = ScenesConfig(textures=folder, texture_size=16, antialias=False, lighting=0.0, noise=0.0)
    assert config.num_classes == 6
    batch = SceneGenerator(config, 0).render(range(16))
    seen = batch.frames.movedim(2, -1).reshape(-1, 3).mul(255).round().unique(dim=0)
    assert {tuple(row) for row in seen.int().tolist()} == set(colours)
    assert batch.labels.max() <= 6


def test_flow_is_exact_on_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    for number, image in enumerate(noise):
        Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / "images" / f"{number}.png")
    config = ScenesConfig(textures=str(tmp_path / "images"), texture_size=64, lighting=0.0, noise=0.0, objects=(0, 0))
    scenes = SceneGenerator(config, 0)
    batch = scenes.render(range(4))
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    colour, _ = scenes.sample(range(4), 1, x + batch.flow[:, 0, 0], y + batch.flow[:, 0, 1])
    assert batch.frames.std() > 0.1
    assert (colour - batch.frames[:, 0]).abs().max() < 0.5 / 255


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r'no folder .*nowhere.*"procedural"'):
        SceneGenerator(ScenesConfig(textures=str(tmp_path / "nowhere")), 0)
    with pytest.raises(InputError, match="holds no image"):
        SceneGenerator(ScenesConfig(textures=str(tmp_path)), 0)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"broken\.png"):
        SceneGenerator(ScenesConfig(textures=str(tmp_path)), 0)


def test_pairs_come_the_same_through_workers_and_after_a_stop() -> None:
    config = ScenesConfig(height=16, width=24)
    pairs = ScenePairs(config, 3, batch_size=4, batches=5)
    assert len(pairs) == 5
    direct = list(pairs)
    loaded = list(DataLoader(pairs, batch_size=None, num_workers=2))
    resumed = list(DataLoader(pairs, batch_size=None, sampler=range(3, len(pairs))))
    assert len(loaded) == 5
    for a, b in zip([*direct, *direct[3:]], [*loaded, *resumed], strict=True):
        assert isinstance(b, ScenePair)
        assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))
    batch = SceneGenerator(config, 3).render(range(8, 12))
    assert torch.equal(direct[2].source, batch.frames[:, 0])
    assert torch.equal(direct[2].target, batch.frames[:, 1])
    assert torch.equal(direct[2].flow, batch.flow[:, 0])
    assert torch.equal(direct[2].occlusion, batch.occlusion[:, 0])
    with pytest.raises(IndexError):
        pairs[5]


def test_pairs_that_are_none() -> None:
    with pytest.raises(ConfigError, match="frames=3"):
        ScenePairs(ScenesConfig(frames=3), 0, batch_size=2, batches=1)
    with pytest.raises(ConfigError, match="batch_size=0"):
        ScenePairs(ScenesConfig(), 0, batch_size=0, batches=1)


def test_natural_pictures_have_edges_at_every_scale_and_repeat_nothing() -> None:
    config = ScenesConfig(textures="natural", natural=5, texture_size=64, lighting=0.0, noise=0.0, objects=(0, 0))
    assert config.num_classes == 6
    assert not config.procedural
    scenes = SceneGenerator(config, 0)
    batch = scenes.render(range(4))
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    colour, _ = scenes.sample(range(4), 1, x + batch.flow[:, 0, 0], y + batch.flow[:, 0, 1])
    assert (colour - batch.frames[:, 0]).abs().max() < 0.5 / 255
    for number in range(5):
        grey = picture(number, 64).mean(-1)
        spectrum = np.abs(np.fft.fft2(grey - grey.mean())) ** 2
        # Shifted by anything from a sixth of its side on, it looks like something else (procedural ones reach 1).
        correlation = np.fft.ifft2(spectrum).real / spectrum.mean()
        assert correlation[11:54, 11:54].max() < 0.6
        frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64))
        low, high = (spectrum[(frequency > f) & (frequency < 2 * f)].mean() for f in (0.04, 0.2))
        assert 4 < low / high < 2000  # 1 / f is 25 in power


def test_natural_pictures_join_a_folder(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", [(200, 10, 30)])
    config = ScenesConfig(textures=folder, natural=2, texture_size=16, objects=(0, 0), lighting=0.0, noise=0.0)
    frames = SceneGenerator(config, 0).frames(range(12))
    plain = frames.flatten(3).std(-1).amax((1, 2)) < 1e-3
    assert 0 < plain.sum() < 12
    with pytest.raises(ConfigError, match="natural=0"):
        ScenesConfig(textures="natural", natural=0)
