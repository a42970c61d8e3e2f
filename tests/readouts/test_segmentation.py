"""Heads and segmenters: what they read, windows, sizes, and files."""

from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

import midway_zoo as mz
from midway_zoo.errors import CheckpointError, ConfigError, InputError, MissingFileError
from midway_zoo.files import write_safetensors
from midway_zoo.inference.image_files import read_labels
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.readouts.segmentation import Segmenter, SegmenterConfig, check_same_classes, seen_size
from midway_zoo.readouts.segmentation_heads import AuxiliaryHead, UperNetHead, pyramid_blocks
from midway_zoo.readouts.segmenter_files import HEAD, write_mask
from midway_zoo.readouts.windows import classes_of, sliding_logits, starts

VIT = "test_vit"  # timm's own smallest one


@pytest.fixture(scope="module")
def network() -> MidwayNetwork:
    torch.manual_seed(0)
    small = {"embed_dim": 24, "depth": 6, "feature_blocks": (0, 2, 3, 5), "motion_dim": 12, "motion_tokens": 2}
    return mz.create_model("midway_nano", midway_depth=1, forward_depth=2, grid=(4, 4), **small)


def segmenter(network: MidwayNetwork, **fields) -> Segmenter:
    torch.manual_seed(1)
    made = Segmenter(network, SegmenterConfig(**{"classes": 3, "crop": 32, **fields})).eval()
    torch.nn.init.normal_(made.head.weight if fields.get("head") != "upernet" else made.head.classify.weight)
    return made


def test_blocks_of_the_pyramid() -> None:
    assert pyramid_blocks(12) == (3, 5, 7, 11)
    assert pyramid_blocks(24) == (7, 11, 15, 23)
    assert pyramid_blocks(6) == (1, 2, 3, 5)


def test_sizes_inside_upernet() -> None:
    head = UperNetHead(16, 5, width=12, dropout=0.1).eval()
    shapes = {}
    for name in ("scales.0", "scales.1", "scales.2", "scales.3", "bottleneck", "fuse"):
        head.get_submodule(name).register_forward_hook(
            lambda module, given, out, name=name: shapes.__setitem__(name, tuple(out.shape[1:]))
        )
    features = torch.rand(2, 64, 8, 8)
    assert head(features).shape == (2, 5, 32, 32)
    assert shapes == {
        "scales.0": (16, 32, 32), "scales.1": (16, 16, 16), "scales.2": (16, 8, 8), "scales.3": (16, 4, 4),
        "bottleneck": (12, 4, 4), "fuse": (12, 32, 32),
    }  # fmt: skip
    assert [pool[0].output_size for pool in head.pooled] == [1, 2, 3, 6]
    assert AuxiliaryHead(16, 5).eval()(features).shape == (2, 5, 8, 8)
    assert head(torch.rand(1, 64, 1, 3)).shape == (1, 5, 4, 12)  # the coarsest map keeps a token


def test_each_map_has_its_place_in_the_pyramid() -> None:
    head = UperNetHead(8, 3).eval()
    features = torch.rand(1, 32, 4, 4, requires_grad=True)
    for index in range(4):  # the finest level reads its own map and those above it
        part = head.scales[index](features.chunk(4, dim=1)[index])
        part.sum().backward()
        touched = features.grad.abs().sum((0, 2, 3)).view(4, 8).sum(1) > 0
        assert touched.tolist() == [one == index for one in range(4)]
        features.grad = None


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"source": "backward"}, 3),
        ({"source": "backward", "levels": (0,)}, 1),
        ({"source": "encoder"}, 4),
        ({"source": "encoder", "blocks": (1, 3)}, 2),
        ({"head": "upernet"}, 4),
    ],
)
def test_features(network, fields, parts) -> None:
    made = segmenter(network, **fields)
    with torch.no_grad():
        assert made.features(torch.rand(2, 3, 32, 40)).shape == (2, parts * 24, 4, 5)
        assert made.logits(torch.rand(2, 3, 32, 40)).shape == (2, 3, 32, 40)


def test_upernet_reads_its_own_blocks(network) -> None:
    made = segmenter(network, head="upernet")
    assert made.config.blocks == (1, 2, 3, 5)
    assert made.head.classify.in_channels == 24
    with pytest.raises(ConfigError, match="reads 4 blocks"):
        segmenter(network, head="upernet", blocks=(1, 2))
    with pytest.raises(ConfigError, match=r"features\.source=encoder"):
        segmenter(network, head="upernet", source="backward")


def test_frozen_and_fine_tuned(network) -> None:
    frozen = segmenter(network, blocks=(1, 3)).train()
    frozen.logits(torch.rand(1, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is None for parameter in frozen.network.parameters())
    assert not frozen.network.encoder.training
    tuned = segmenter(mz.create_model("midway_nano"), blocks=(1, 3)).unfreeze(drop_path=0.2).train()
    assert tuned.encoder.blocks[11].drop_path1.drop_prob == 0.2
    assert tuned.encoder.training
    assert not tuned.network.dynamics.training
    tuned.logits(torch.rand(1, 3, 64, 64)).sum().backward()
    without = {name.split(".")[1] for name, value in tuned.encoder.named_parameters()
               if name.startswith("blocks") and value.grad is None}  # fmt: skip
    assert without == {str(number) for number in range(4, 12)}
    assert not any(p.requires_grad for p in tuned.encoder.blocks[4].parameters())


def test_what_a_name_loads_is_not_changed() -> None:
    named = Segmenter("midway_nano.scenes", SegmenterConfig(classes=2)).unfreeze()
    again = Segmenter("midway_nano.scenes", SegmenterConfig(classes=2))
    assert named.encoder is not again.encoder


# Windows and sizes.


def test_where_windows_begin() -> None:
    assert starts(512, 512, 341) == [0]
    assert starts(910, 512, 341) == [0, 341, 398]
    assert starts(1024, 512, 341) == [0, 341, 512]
    assert starts(853, 512, 341) == [0, 341]
    assert starts(100, 512, 341) == [0]


@pytest.mark.parametrize("head", ["linear", "upernet"])
def test_an_image_that_a_window_holds_is_seen_as_a_whole(network, head) -> None:
    made = segmenter(network, head=head)
    images = torch.rand(2, 3, 32, 24)
    with torch.no_grad():
        found = sliding_logits(made.logits, images, side=32, stride=21, patch=8)
        torch.testing.assert_close(found, made.logits(images))
        odd = sliding_logits(made.logits, images[..., :29, :17], side=32, stride=21, patch=8)
        continued = torch.nn.functional.pad(images[..., :29, :17], (0, 7, 0, 3), mode="replicate")
        torch.testing.assert_close(odd, made.logits(continued)[..., :29, :17])


def test_windows_of_a_constant_image_agree_with_the_whole() -> None:
    """Logits that depend on the pixel alone: windows, their batches and their overlaps change nothing."""

    def logits(images: torch.Tensor) -> torch.Tensor:
        return torch.stack([images.sum(1), images[:, 0] - images[:, 1]], dim=1)

    image = torch.rand(2, 3, 50, 93)
    for batch_size in (1, 3, 100):
        found = sliding_logits(logits, image, side=32, stride=21, patch=8, batch_size=batch_size)
        torch.testing.assert_close(found, logits(image))


def test_windows_move_with_the_image(network) -> None:
    """The same picture shifted by a stride is seen by the same windows, one further."""
    made = segmenter(network)
    wide = torch.rand(1, 3, 32, 32 + 3 * 21)
    with torch.no_grad():
        whole = sliding_logits(made.logits, wide, side=32, stride=21, patch=8)
        shifted = sliding_logits(made.logits, wide[..., 21:], side=32, stride=21, patch=8)
    torch.testing.assert_close(whole[..., 21 + 11 :], shifted[..., 11:])  # past the overlap with what was cut off


def test_overlaps_are_averaged() -> None:
    calls = iter(range(10))
    found = sliding_logits(
        lambda images: torch.full((1, 1, 4, 4), float(next(calls))), torch.zeros(1, 3, 4, 6), side=4, stride=2,
        patch=1, batch_size=1,
    )  # fmt: skip
    assert found[0, 0, 0].tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_sizes_at_which_images_are_seen() -> None:
    assert seen_size(720, 1280, None, 512) == (512, 910)
    assert seen_size(1024, 2048, None, 512) == (512, 1024)
    assert seen_size(100, 1000, None, 512) == (205, 2048)
    assert seen_size(720, 1280, "full", 512) == (720, 1280)
    assert seen_size(720, 1280, 360, 512) == (360, 640)
    with pytest.raises(InputError, match="size=0"):
        seen_size(720, 1280, 0, 512)


def test_classes_in_parts_are_those_of_the_whole() -> None:
    logits = torch.randn(2, 37, 6, 8)
    whole = torch.nn.functional.interpolate(logits, (30, 21), mode="bilinear").softmax(1).max(1)
    for at_once in (1, 16, 100):
        labels, confidence = classes_of(logits, (30, 21), at_once=at_once)
        assert torch.equal(labels, whole.indices)
        torch.testing.assert_close(confidence, whole.values)


def test_predictions_have_the_sizes_of_the_images(network) -> None:
    made = segmenter(network, names=("a", "b", "c")).train()
    images = [torch.rand(3, 45, 61), torch.rand(3, 20, 130), Image.new("RGB", (7, 5))]
    found = made.predict(images)
    assert [tuple(one.shape) for one in found.labels] == [(45, 61), (20, 130), (5, 7)]
    assert found.labels[0].dtype == torch.uint8
    assert found.names == ("a", "b", "c")
    assert made.training
    assert made.head.training
    alone = made.predict(images[1], batch_size=1)
    assert torch.equal(alone.labels[0], found.labels[1])
    assert made.predict(torch.rand(4, 3, 32, 32)).labels.shape == (4, 32, 32)
    assert 1 / 3 <= found.confidence[0].min() <= found.confidence[0].max() <= 1
    with pytest.raises(InputError, match="stride=40"):
        made.predict(images[0], stride=40)


def test_a_window_that_holds_the_image_gives_the_head_s_classes(network) -> None:
    made = segmenter(network)
    image = torch.rand(3, 32, 32)
    with torch.no_grad():
        expected = made.logits(made.normalise(image[None])).argmax(1)
    assert torch.equal(made.predict(image).labels.long(), expected)


# Other backbones, and files.


def test_any_vit_of_timm() -> None:
    vit = timm.create_model(VIT, num_classes=0, dynamic_img_size=True)
    made = Segmenter(vit, SegmenterConfig(classes=4, head="upernet", crop=64))
    assert made.network is None
    assert made.predict(torch.rand(3, 70, 90)).labels.shape == (1, 70, 90)
    with pytest.raises(ConfigError, match="no backward layers"):
        Segmenter(vit, SegmenterConfig(classes=4, source="backward"))


def test_exports_of_the_first_version(network, tmp_path: Path) -> None:
    """A head without a configuration of its own: features, classes and names, standardised."""
    network.save_pretrained(tmp_path)
    tensors = {"head.weight": torch.randn(3, 72, 1, 1), "head.bias": torch.randn(3)}
    tensors |= {"mean": torch.randn(72), "std": torch.rand(72) + 0.5}
    described = {"features": {"source": "backward", "levels": None, "blocks": None}, "classes": 3, "names": None}
    write_safetensors(tmp_path / HEAD, tensors, described)
    made = mz.load_segmenter(tmp_path)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        back = network.dynamics.backward_features(network.encode(made.normalise(images)))
        joined = torch.cat([back[level][:, 1:] for level in (2, 1, 0)], dim=-1)
        joined = (joined - tensors["mean"]) / tensors["std"]
        expected = joined @ tensors["head.weight"][:, :, 0, 0].T + tensors["head.bias"]
        found = made.head(made.features(made.normalise(images)))
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected)


def test_files_that_do_not_belong_together(network, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="train segmentation"):
        mz.load_segmenter(tmp_path)
    network.save_pretrained(tmp_path)
    described = {"segmenter": SegmenterConfig(classes=3, blocks=(1, 3)).to_dict(), "backbone": None}
    write_safetensors(tmp_path / HEAD, {"head.weight": torch.zeros(3, 48, 1, 1)}, described)
    with pytest.raises(CheckpointError, match=r"head\.bias is missing"):
        mz.load_segmenter(tmp_path)
    write_safetensors(
        tmp_path / HEAD, {"head.weight": torch.zeros(1)}, {**described, "backbone": "timm:" + VIT}, overwrite=True
    )
    with pytest.raises(MissingFileError, match="segmentation_backbone"):
        mz.load_segmenter(tmp_path)
    described["segmenter"]["colour"] = 1
    write_safetensors(tmp_path / HEAD, {"head.weight": torch.zeros(1)}, described, overwrite=True)
    with pytest.raises(CheckpointError, match="colour"):
        mz.load_segmenter(tmp_path)


def test_masks_are_written_as_classes_with_colours(tmp_path: Path) -> None:
    labels = torch.tensor([[0, 1, 2], [254, 255, 1]], dtype=torch.uint8)
    write_mask(tmp_path / "mask.png", labels, palette=[(1, 2, 3), (200, 0, 0), (0, 9, 0)])
    assert (read_labels(tmp_path / "mask.png") == labels.numpy()).all()
    assert Image.open(tmp_path / "mask.png").convert("RGB").getpixel((1, 0)) == (200, 0, 0)


def test_other_classes_are_refused(network) -> None:
    made = segmenter(network, names=("a", "b", "c"))
    check_same_classes(made, ("a", "b", "c"), "set")
    check_same_classes(made, (), "set")
    with pytest.raises(InputError, match="number 1 is 'x' there and 'b' here"):
        check_same_classes(made, ("a", "x", "c"), "set")
    with pytest.raises(InputError, match="4 classes"):
        check_same_classes(made, ("a", "b", "c", "d"), "set")
