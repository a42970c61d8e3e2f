"""What timm asks of a registered vision transformer, on all three architectures."""

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models import group_parameters

import midway_zoo as mz
from midway_zoo.config import ARCHITECTURES
from midway_zoo.weights.sharing import save_encoder

NAMES = list(ARCHITECTURES)


def small(name: str) -> dict[str, int]:
    """A size at which every architecture is quick."""
    return {"img_size": 4 * ARCHITECTURES[name].patch_size}


def batch(name: str, count: int = 2, channels: int = 3) -> torch.Tensor:
    side = 4 * ARCHITECTURES[name].patch_size
    return torch.randn(count, channels, side, side)


def test_registered_with_tags() -> None:
    assert timm.list_models("midway*") == sorted(NAMES)
    assert set(timm.list_models("midway*", pretrained=True)) >= {
        "midway_vitb.bdd100k",
        "midway_vits.bdd100k",
        "midway_vits.wt_venice",
        "midway_nano.scenes",
    }
    assert timm.models.get_pretrained_cfg("midway_vits").tag == "bdd100k"
    assert timm.models.get_pretrained_cfg("midway_vits.wt_venice").tag == "wt_venice"


@pytest.mark.parametrize("name", NAMES)
def test_native_shape_and_size(name: str) -> None:
    config = ARCHITECTURES[name]
    with torch.device("meta"):
        model = timm.create_model(name)
    assert model.num_classes == 0
    assert model.patch_embed.img_size == config.img_size
    assert model.num_features == config.embed_dim
    assert model.default_cfg["mean"] == (0.485, 0.456, 0.406)
    expected = {"midway_vits": 21_665_664, "midway_vitb": 85_798_656}
    assert sum(p.numel() for p in model.parameters()) == expected.get(name, sum(p.numel() for p in model.parameters()))
    assert model(torch.empty(2, 3, *config.img_size, device="meta")).shape == (2, config.embed_dim)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = timm.create_model(name, num_classes=7, **small(name)).train()
    model(batch(name)).mean().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    headless = timm.create_model(name, **small(name)).train()
    headless(batch(name)).mean().backward()
    assert [key for key, parameter in headless.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_forward_parts_agree(name: str) -> None:
    model = timm.create_model(name, num_classes=7, **small(name)).eval()
    images = batch(name)
    with torch.no_grad():
        features = model.forward_features(images)
        assert torch.equal(model.forward_head(features), model(images))
        assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
        final, intermediates = model.forward_intermediates(images, indices=[2, 11], norm=True)
    assert torch.equal(final, features)
    assert [tuple(m.shape) for m in intermediates] == [(2, model.num_features, 4, 4)] * 2
    assert torch.allclose(intermediates[1].flatten(2).mT, features[:, 1:], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_heads_and_pooling(name: str) -> None:
    images = batch(name)
    model = timm.create_model(name, num_classes=10, **small(name)).eval()
    assert model(images).shape == (2, 10)
    model.reset_classifier(3, "avg")
    assert model(images).shape == (2, 3)
    model.reset_classifier(0, "")
    assert model(images).shape == (2, 17, model.num_features)
    averaged = timm.create_model(name, global_pool="avg", **small(name)).eval()
    assert averaged(images).shape == (2, model.num_features)


@pytest.mark.parametrize("name", NAMES)
def test_inputs(name: str) -> None:
    assert timm.create_model(name, in_chans=1, **small(name))(batch(name, channels=1)).shape[0] == 2
    dynamic = timm.create_model(name, dynamic_img_size=True, **small(name)).eval()
    patch = ARCHITECTURES[name].patch_size
    assert dynamic.forward_features(torch.randn(1, 3, 3 * patch, 5 * patch)).shape[1] == 16
    with pytest.raises(AssertionError):
        timm.create_model(name, **small(name))(torch.randn(1, 3, 3 * patch, 5 * patch))


@pytest.mark.parametrize("name", NAMES)
def test_features_only(name: str) -> None:
    model = timm.create_model(name, features_only=True, **small(name))
    assert [tuple(m.shape) for m in model(batch(name))] == [(2, ARCHITECTURES[name].embed_dim, 4, 4)] * 4
    assert model.feature_info.channels() == [ARCHITECTURES[name].embed_dim] * 4
    assert [info["module"] for info in model.feature_info.get_dicts()] == [f"blocks.{b}" for b in (2, 5, 8, 11)]
    assert len(timm.create_model(name, features_only=True, out_indices=[-1], **small(name))(batch(name))) == 1


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    model = timm.create_model(name, **small(name)).train()
    images = batch(name)
    model(images).sum().backward()
    plain = model.blocks[0].attn.qkv.weight.grad.clone()
    model.zero_grad()
    model.set_grad_checkpointing()
    model(images).sum().backward()
    assert torch.allclose(plain, model.blocks[0].attn.qkv.weight.grad, rtol=1e-4, atol=1e-6)


def test_layer_decay_groups() -> None:
    model = timm.create_model("midway_nano")
    layers = group_parameters(model, model.group_matcher(coarse=False))
    assert len(layers) == 1 + 12  # stem; blocks, the last with the final norm
    assert {"cls_token", "pos_embed"} <= model.no_weight_decay()


@pytest.mark.parametrize("name", NAMES)
def test_traceable(name: str) -> None:
    model = timm.create_model(name, **small(name)).eval()
    images = batch(name)
    with torch.no_grad():
        assert torch.allclose(torch.jit.trace(model, images)(images), model(images), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_numerically_timms_own_transformer(name: str) -> None:
    config = ARCHITECTURES[name]
    model = timm.create_model(name, **small(name)).eval()
    shape = config.encoder_args | small(name)
    reference = timm.models.VisionTransformer(num_classes=0, **shape).eval()
    reference.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(batch_ := batch(name)), reference(batch_))


def test_save_for_hf_round_trip(tmp_path) -> None:
    from timm.models._hub import save_for_hf  # not public, but what push_to_hf_hub uses

    model = timm.create_model("midway_nano", num_classes=5).eval()
    save_for_hf(model, str(tmp_path), model_args={"num_classes": 5}, safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(images), model(images))


@pytest.fixture
def folder(tmp_path):
    """An encoder of unusual shape, saved as `midway-zoo convert` does."""
    network = mz.create_model("midway_nano", embed_dim=48, num_heads=3, grid=(4, 6), backward_heads=6, forward_heads=6)
    save_encoder(network.encoder, network.config, tmp_path, {"source": "test"})
    return tmp_path, network


def test_local_dir_takes_its_shape_from_the_folder(folder) -> None:
    path, network = folder
    model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    assert model.patch_embed.grid_size == (4, 6)
    assert all(torch.equal(value, network.encoder.state_dict()[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        images = torch.randn(1, 3, 32, 48)
        assert torch.equal(model(images), network.encode(images)[-1][:, 0])


def test_local_dir_adapts(folder) -> None:
    path, network = folder
    name = f"local-dir:{path}"
    model = timm.create_model(name, pretrained=True, num_classes=10, in_chans=1, global_pool="avg")
    assert model(torch.randn(2, 1, 32, 48)).shape == (2, 10)
    assert torch.equal(model.fc_norm.weight, network.encoder.norm.weight)
    assert torch.allclose(model.patch_embed.proj.weight, network.encoder.patch_embed.proj.weight.sum(1, keepdim=True))
    turned = timm.create_model(name, pretrained=True, img_size=(48, 32))  # as many tokens, another grid
    assert not torch.equal(turned.pos_embed, network.encoder.pos_embed)
    assert len(timm.create_model(name, pretrained=True, features_only=True)(torch.randn(1, 3, 32, 48))) == 4


def test_weights_that_do_not_fit_are_refused(folder) -> None:
    path, _ = folder
    tensors = load_file(path / "model.safetensors")
    del tensors["blocks.3.norm1.weight"]
    from safetensors.torch import save_file

    save_file(tensors, path / "model.safetensors")
    # num_classes makes timm itself load with strict=False, and it would only log the gap
    with pytest.raises(mz.MidwayZooError, match=r"blocks\.3\.norm1\.weight"):
        timm.create_model(f"local-dir:{path}", pretrained=True, num_classes=10)
