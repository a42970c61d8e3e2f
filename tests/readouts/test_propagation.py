"""Labels along a clip: an object of its own colour is followed, whatever else is asked is refused."""

import pytest
import timm
import torch

from midway_zoo import MidwayNetwork
from midway_zoo.errors import ConfigError, InputError, UnknownModelError
from midway_zoo.readouts.backbone import Backbone, load_backbone
from midway_zoo.readouts.masks import region_similarity
from midway_zoo.readouts.propagation import PropagationOptions, propagate_labels

SMALL = PropagationOptions(side=64, context=2, radius=3)


class Colours(torch.nn.Module):
    """A backbone whose tokens are the mean colours of their patches."""

    patch_size, depth = 8, 1

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))

    def grid_of(self, images):
        return images.shape[-2] // 8, images.shape[-1] // 8

    def maps(self, images, blocks=None):
        return [torch.nn.functional.avg_pool2d(images, 8) - 0.5]


def moving_square(frames: int = 5, size: int = 64) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """A red square on green ground that goes one token to the right per frame, and its masks."""
    images, masks = [], []
    for index in range(frames):
        mask = torch.zeros(size, size, dtype=torch.int64)
        mask[16:32, 8 * index : 8 * index + 16] = 7
        image = torch.tensor([0.1, 0.8, 0.1])[:, None, None].expand(3, size, size).clone()
        image[:, mask == 7] = torch.tensor([0.9, 0.1, 0.1])[:, None]
        images.append(image)
        masks.append(mask)
    return images, masks


def test_an_object_of_its_own_colour_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midway_zoo.readouts.propagation.load_backbone", lambda model: model)
    images, masks = moving_square()
    found = list(propagate_labels(Colours(), iter(images), masks[0], options=SMALL))
    assert torch.equal(found[0], masks[0])
    for ours, truth in zip(found, masks, strict=True):
        assert set(ours.unique().tolist()) == {0, 7}
        assert region_similarity(ours == 7, truth == 7) > 0.7


def test_what_is_further_away_than_the_radius_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midway_zoo.readouts.propagation.load_backbone", lambda model: model)
    images, masks = moving_square(2)
    far = torch.roll(images[1], 32, dims=2)
    options = PropagationOptions(side=64, context=0, radius=1, top=1)
    *_, found = propagate_labels(Colours(), [images[0], far], masks[0], options=options)
    assert not (found == 7).any()


def test_networks_of_the_zoo_and_of_timm(nano: MidwayNetwork) -> None:
    images, masks = moving_square(3)
    plain = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True)
    for model in (nano, plain, Backbone(nano.encoder)):
        found = list(propagate_labels(model, images, masks[0], options=SMALL))
        assert [tuple(label.shape) for label in found] == [(64, 64)] * 3
        assert all(set(label.unique().tolist()) <= {0, 7} for label in found)


def test_sizes_need_not_be_multiples_of_the_patch(nano: MidwayNetwork) -> None:
    frames = [torch.rand(3, 61, 83) for _ in range(2)]
    labels = torch.zeros(61, 83, dtype=torch.int64)
    labels[:30] = 1
    assert [tuple(found.shape) for found in propagate_labels(nano, frames, labels, options=SMALL)] == [(61, 83)] * 2


def test_what_cannot_be_is_refused(nano: MidwayNetwork) -> None:
    frames, labels = [torch.rand(3, 64, 64)], torch.zeros(32, 32, dtype=torch.int64)
    with pytest.raises(InputError, match="64 x 64 pixels, the labels 32 x 32"):
        list(propagate_labels(nano, frames, labels))
    with pytest.raises(InputError, match="integers"):
        propagate_labels(nano, frames, labels.float())
    with pytest.raises(InputError, match="block=12"):
        list(propagate_labels(nano, frames, torch.zeros(64, 64).long(), options=PropagationOptions(block=12)))
    with pytest.raises(InputError, match="top=0"):
        PropagationOptions(top=0)
    with pytest.raises(UnknownModelError, match="timm has no model"):
        load_backbone("timm:vit_smal")
    with pytest.raises(ConfigError, match="not a ViT"):
        load_backbone(timm.create_model("resnet18", pretrained=False))


def test_backbone_tokens_are_those_of_the_network(nano: MidwayNetwork) -> None:
    images = torch.rand(2, 3, 64, 96)
    backbone = load_backbone(nano)
    cls, patches = backbone.tokens(images, [5])[0]
    tokens = nano.encode(backbone.normalise(images), blocks=[5])[0]
    torch.testing.assert_close(torch.cat([cls[:, None], patches], dim=1), tokens)
    assert backbone.maps(images)[0].shape == (2, 96, 8, 12)
    assert backbone.digest() == load_backbone(nano).digest()
