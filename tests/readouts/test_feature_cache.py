"""Features on disk: found again, computed again where anything differs, resumed after a cut."""

import os

import pytest
import timm
import torch

from midway_zoo.errors import InputError
from midway_zoo.readouts import feature_cache
from midway_zoo.readouts.backbone import Backbone, load_backbone
from midway_zoo.readouts.classification import evaluate_neighbours
from midway_zoo.readouts.feature_cache import EvalTransform, cached_features
from midway_zoo.readouts.image_folder import list_images
from tests.readouts.folders import write_classes


@pytest.fixture
def counted(nano, monkeypatch) -> tuple[Backbone, list[int]]:
    """A backbone, and the number of images it was asked for, call by call."""
    backbone, asked = load_backbone(nano), []
    tokens = Backbone.tokens

    def counting(self, images, blocks=None):
        asked.append(len(images))
        return tokens(self, images, blocks)

    monkeypatch.setattr(Backbone, "tokens", counting)
    monkeypatch.setattr(feature_cache, "SHARD", 4)
    return backbone, asked


def test_features_are_computed_once(counted, tmp_path) -> None:
    backbone, asked = counted
    write_classes(tmp_path / "data", 3)
    images, transform = list_images(tmp_path / "data"), EvalTransform.of(backbone)

    def features(cache="cache", network=backbone, seen=transform):
        del asked[:]
        return cached_features(network, images.files, images.root, transform=seen, cache=tmp_path / cache, batch_size=3)

    first = features()
    assert asked == [3, 1, 3, 1, 1]
    seen = torch.stack([transform(path) for path in images.files])
    torch.testing.assert_close(first, backbone.tokens(seen)[0][0].detach(), atol=1e-5, rtol=1e-4)
    assert torch.equal(features(), first)
    assert asked == []
    shard = sorted((tmp_path / "cache").rglob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-20])  # damaged
    assert torch.equal(features(), first)
    assert sum(asked) in (1, 4)
    status = images.files[8].stat()
    os.utime(images.files[8], ns=(status.st_atime_ns, status.st_mtime_ns + 1000))  # the image was replaced
    features()
    assert asked == [1]
    features(seen=EvalTransform(72, 48))
    assert sum(asked) == 9
    torch.manual_seed(3)
    other = Backbone(timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True))
    assert features(network=other).shape == (9, 192)
    assert sum(asked) == 9


def test_a_cut_loses_one_shard_at_most(counted, tmp_path, monkeypatch) -> None:
    backbone, asked = counted
    write_classes(tmp_path / "data", 3)
    images, calls = list_images(tmp_path / "data"), []

    def cut(self, path):
        calls.append(path)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return original(self, path)

    original = EvalTransform.__call__
    monkeypatch.setattr(EvalTransform, "__call__", cut)
    settings = {"transform": EvalTransform.of(backbone), "cache": tmp_path / "cache", "batch_size": 4}
    with pytest.raises(KeyboardInterrupt):
        cached_features(backbone, images.files, images.root, **settings)
    del asked[:]
    assert len(cached_features(backbone, images.files, images.root, **settings)) == 9
    assert asked == [4, 1]


def test_neighbours_tell_colours(nano, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MIDWAY_ZOO_FEATURES", str(tmp_path / "features"))
    write_classes(tmp_path / "data" / "train", 4)
    write_classes(tmp_path / "data" / "val", 2, seed=1)
    found = evaluate_neighbours(nano, tmp_path / "data", k=(1, 3, 50))
    assert found.accuracies[1] == {"top1": 1.0}  # three classes: no top-5
    assert found.best()[1] == 1.0
    assert (found.train_images, found.val_images, len(found.classes)) == (12, 6, 3)
    assert list((tmp_path / "features").rglob("*.safetensors"))
    with pytest.raises(InputError, match=r"k=\[0\]"):
        evaluate_neighbours(nano, tmp_path / "data", k=(0,))
    with pytest.raises(InputError, match="size=50 does not fit"):
        evaluate_neighbours(nano, tmp_path / "data", size=50)
