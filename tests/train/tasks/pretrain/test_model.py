"""The pretraining module: what is averaged, how it begins, how position tables are resampled."""

from functools import partialmethod

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from midway_zoo.errors import ConfigError
from midway_zoo.train.config import load_config
from midway_zoo.train.journal import read_log
from midway_zoo.train.loop import fit
from midway_zoo.train.tasks.pretrain.config import PretrainConfig
from midway_zoo.train.tasks.pretrain.model import PretrainModel, resample_as_released
from tests.train.conftest import TINY_NETWORK


def build(*settings: str) -> PretrainModel:
    given = ["out=unused", "data.root=unused", "network.drop_path=0", *TINY_NETWORK, *settings]
    return PretrainModel(load_config(PretrainConfig, "nano", given)).train()


def test_every_average_begins_as_its_original_and_follows_it() -> None:
    model = build("network.dynamics_init=released")
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    averaged = [parameter for average, _ in model.averages for parameter in average.parameters()]
    names = {name for name, parameter in model.named_parameters() if any(parameter is one for one in averaged)}
    assert names == frozen
    for average, original in model.averages:
        assert all(map(torch.equal, average.state_dict().values(), original.state_dict().values()))
    before = [parameter.clone() for parameter in averaged]
    for _, original in model.averages:
        for parameter in original.parameters():
            parameter.data.add_(1)
    model.update_averages(0.75)
    for parameter, old in zip(averaged, before, strict=True):
        torch.testing.assert_close(parameter, old + 0.25)


def test_dynamics_begin_as_asked() -> None:
    torch.manual_seed(0)
    model = build("network.dynamics_init=released", "network.overrides.embed_dim=192")
    dynamics = model.network.dynamics
    assert not dynamics.motion_tokens.any()
    assert not dynamics.pos_embed.any()
    for encoder in (model.network.encoder, model.network.target_encoder):
        assert encoder.cls_token.std().item() == pytest.approx(0.02, rel=0.2)
    plain = build("network.dynamics_init=normal").network
    assert plain.dynamics.pos_embed.std().item() == pytest.approx(0.02, rel=0.2)
    assert plain.dynamics.motion_tokens.any()
    assert plain.encoder.cls_token.std() < 1e-5


def test_dino_between_the_dynamics_crops_is_across_frames() -> None:
    model = build("objective.dynamics_dino_weight=2", "objective.dino_weight=1", "head.out=16")
    side = model.network.config.grid[0] * model.network.config.patch_size
    views = {key: torch.randn(count, 2, 3, side, side) for key, count in (("dynamics", 2), ("globals", 4))}
    found = model(views)
    torch.testing.assert_close(found["loss"], found["dino"] + 2 * found["dino_crops"] + found["dynamics"])
    ours, other = views["dynamics"]
    expected = 0.0
    for source, target in ((ours, other), (other, ours)):
        logits = model.teacher_head(model.network.encode_cls(target, target=True)) - model.dino.center
        wanted = (logits / model.dino.teacher_temperature).softmax(-1)
        said = model.head(model.network.encode_cls(source)) / model.dino.student_temperature
        expected = expected - (wanted * said.log_softmax(-1)).sum(-1).mean() / 2
    torch.testing.assert_close(found["dino_crops"], expected, atol=1e-4, rtol=1e-4)
    given = ["out=unused", "data.root=unused", *TINY_NETWORK, "objective.dynamics_dino_weight=1"]
    for setting, said in (
        ("objective.dino_weight=0", "needs objective.dino_weight above 0"),
        ("network.overrides.depth=5", "must end with 4"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_config(PretrainConfig, "nano", [*given, setting]).check()


def bicubic(distance: float) -> float:
    """Keys' kernel with a = -0.75, PyTorch's."""
    x, a = abs(distance), -0.75
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def test_positions_are_resampled_as_in_the_released_runs() -> None:
    """By the definition: place i of 6 reads the table of 14 at (i + 0.5) * 14 / 6.1 - 0.5, four neighbours, clamped."""
    line = torch.randn(14, dtype=torch.float64)
    table = torch.cat([torch.full((1, 1, 1), 9.0), line.float().repeat(14).view(1, 196, 1)], dim=1)
    found = resample_as_released(table, (14, 14), (6, 6))
    assert found.shape == (1, 37, 1)
    assert found[0, 0, 0] == 9
    for column in range(6):
        place = (column + 0.5) * 14 / 6.1 - 0.5
        first = int(place // 1) - 1
        expected = sum(line[min(max(at, 0), 13)] * bicubic(place - at) for at in range(first, first + 4))
        assert found[0, 1 + column, 0].item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_students_local_views_take_the_resampling_that_is_asked_for() -> None:
    images, globals_ = torch.randn(3, 3, 16, 16), torch.randn(3, 3, 32, 32)
    released, timm = build("network.resample=released"), build("network.resample=timm")
    timm.load_state_dict(released.state_dict())
    encoder = timm.network.encoder
    assert torch.equal(released._student_cls(globals_), timm._student_cls(globals_))
    apart = released._student_cls(images) - timm._student_cls(images)
    assert apart.abs().max() > 1e-4
    # The same as timm's own resampling of a table that gives these values: here put in its place.
    table = resample_as_released(encoder.pos_embed, (4, 4), (2, 2)).detach()
    with torch.no_grad():
        mine = resample_abs_pos_embed(encoder.pos_embed, [2, 2], [4, 4])
    assert (table - mine).abs().max() > 1e-4
    released._student_cls(images).square().sum().backward()
    assert released.network.encoder.pos_embed.grad.abs().sum() > 0
    assert released.network.encoder.patch_embed.grid_size == (4, 4)


def views_of(pairs: int = 2, **sizes: int) -> dict[str, torch.Tensor]:
    """Noise in the shapes of normalised views of the tiny network."""
    shapes = {"dynamics": (2, 32), "globals": (4, sizes.get("globals", 32)), "locals": (2, 16)}
    generator = torch.Generator().manual_seed(0)
    return {k: torch.randn(n, pairs, 3, side, side, generator=generator) for k, (n, side) in shapes.items()}


@pytest.mark.parametrize("depth", [4, 5])
def test_crops_of_one_size_share_a_pass(depth) -> None:
    """Levels of some images and class tokens of others: as in passes of their own, values and gradients."""
    network = build(f"network.overrides.depth={depth}").network  # of five blocks the last is none of the levels
    images, further = views_of()["dynamics"].flatten(0, 1), views_of()["globals"].flatten(0, 1)
    levels, cls = network.encode_with_cls(images, further)
    joint = [*levels, cls]
    apart = [*network.encode(images), network.encode_cls(further)]
    for ours, expected in zip(joint, apart, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    weight = network.encoder.blocks[1].attn.qkv.weight
    ours, expected = (torch.autograd.grad(sum(t.square().sum() for t in part), weight)[0] for part in (joint, apart))
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("size", "passes"), [(32, 3), (48, 5)])
def test_passes_of_a_step(monkeypatch, size, passes) -> None:
    """Three where global and dynamics crops have one size, five where they differ."""
    calls: list[int] = []
    forward = VisionTransformer.forward_intermediates

    def counted(self, x, **kwargs):
        calls.append(len(x))
        return forward(self, x, **kwargs)

    monkeypatch.setattr(VisionTransformer, "forward_intermediates", counted)
    losses = build(f"views.global_size={size}")(views_of(globals=size))
    assert len(calls) == passes
    assert losses["loss"].isfinite()


@pytest.mark.slow
def test_a_compiled_step_is_the_same() -> None:
    """Traced forward and backward; "aot_eager" leaves out the code generator, which takes minutes on a CPU."""
    model, views = build("network.resample=released"), views_of()
    plain = model(views)
    plain["loss"].backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    model.dino.update_center()  # of both calls the sums stay out of what is compared
    model.dino.center.zero_()
    model.compile(backend="aot_eager")
    compiled = model(views)
    compiled["loss"].backward()
    for name in ("loss", "dino", "dynamics"):
        torch.testing.assert_close(compiled[name], plain[name], atol=1e-5, rtol=1e-5)
    assert gradients.keys() == {name for name, p in model.named_parameters() if p.grad is not None}
    for name, p in model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, gradients[name], atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.slow
def test_a_compiled_run_is_the_same(make_task, tmp_path, monkeypatch) -> None:
    """``compile=true`` by the loop, up to a checkpoint that a run without it goes on from."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    plain = fit(make_task("max_steps=3", f"out={tmp_path / 'plain'}"))
    fit(make_task("max_steps=2", "compile=true"))
    found = fit(make_task("max_steps=3", "resume=must"))
    for name in ("loss", "dino", "dynamics", "grad_norm"):
        assert found.last[name] == pytest.approx(plain.last[name], rel=1e-3), name
    told = [[line["loss"] for line in read_log(tmp_path / run / "log.jsonl")] for run in ("plain", "run")]
    assert told[1] == pytest.approx(told[0], rel=1e-3)
