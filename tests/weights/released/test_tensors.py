"""Every tensor of a released file is accounted for; missing parts, other files, kinds of tensor."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from midway_zoo import load_checkpoint
from midway_zoo.errors import CheckpointError
from tests.weights.released.files import PARTS, Edit, put, remove
from tests.weights.released_files import (
    DROP,
    TINY,
    assert_same_state,
    expected_state,
    released_checkpoint,
)

DYNAMICS = "module.forward_predictor_1.1.attn.proj.bias"
ENCODER = "backbone.blocks.2.attn.qkv.weight"


def one_infinity(old: torch.Tensor) -> torch.Tensor:
    return old.index_fill(0, torch.tensor(3), math.inf)


BAD_TENSORS: dict[str, tuple[Edit, str]] = {
    "encoder tensor missing": (remove("teacher", "blocks.2.norm1.bias"), "blocks.2.norm1.bias"),
    "encoder block missing": (remove("teacher", r"blocks\.1\."), r"blocks\.1"),
    "position table missing": (remove("teacher", "pos_embed"), "pos_embed"),
    "patch embedding missing": (remove("teacher", "patch_embed"), "patch_embed.proj.weight"),
    "dynamics tensor missing": (remove("motion_loss", "motion_proj.bias"), "motion_proj.bias"),
    "motion tokens missing": (remove("motion_loss", "motion_tokens"), "motion_tokens"),
    "gates of one level missing": (remove("motion_loss", "gating_mlps_1"), "gating_mlps_1"),
    "no encoder at all": (remove("teacher", "backbone"), "patch_embed"),
    "unexpected encoder tensor": (put("teacher", "backbone.register_tokens", torch.zeros(1)), "register_tokens"),
    "unexpected dynamics tensor": (put("motion_loss", "module.tau", torch.zeros(1)), "tau"),
    "unexpected qkv bias": (
        put("motion_loss", "module.motion_blocks_0.0.attn.qkv.bias", torch.zeros(36)),
        "attn.qkv.bias",
    ),
    "name that is a number": (put("teacher", 7, torch.zeros(1)), "7"),  # type: ignore[arg-type]
    "encoder tensor transposed": (put("teacher", ENCODER, lambda old: old.t()), "blocks.2.attn.qkv.weight"),
    "dynamics tensor too long": (put("motion_loss", DYNAMICS, torch.zeros(25)), "attn.proj.bias"),
    "one dimension too many": (put("motion_loss", DYNAMICS, lambda old: old[None]), "attn.proj.bias"),
    "scalar": (put("teacher", ENCODER, torch.tensor(1.0)), "blocks.2.attn.qkv.weight"),
    "empty": (put("teacher", ENCODER, torch.zeros(0, 24)), "blocks.2.attn.qkv.weight"),
    "empty position table": (put("teacher", "backbone.pos_embed", torch.zeros(1, 0, 24)), "pos_embed"),
    "flat position table": (put("teacher", "backbone.pos_embed", torch.zeros(5, 24)), "pos_embed"),
    "position tables disagree": (put("motion_loss", "module.pos_embed", torch.zeros(1, 34, 12)), "pos_embed"),
    "grey patch embedding": (put("teacher", "backbone.patch_embed.proj.weight", torch.zeros(24, 1, 8, 8)), "RGB"),
    "NaN": (put("teacher", ENCODER, lambda old: old.clone().fill_(math.nan)), "blocks.2.attn.qkv.weight"),
    "one infinity": (put("motion_loss", DYNAMICS, one_infinity), "attn.proj.bias"),
    "minus infinity in half": (put("teacher", ENCODER, lambda old: old.half().fill_(-math.inf)), "attn.qkv.weight"),
    "int64": (put("teacher", ENCODER, lambda old: old.long()), r"attn\.qkv\.weight is torch\.int64"),
    "bool": (put("motion_loss", DYNAMICS, lambda old: old > 0), r"attn\.proj\.bias is torch\.bool"),
    "no tensor": (put("teacher", ENCODER, [1.0]), "blocks.2.attn.qkv.weight"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "named"), BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_bad_tensor_is_named(write: Callable[..., Any], edit: Edit, named: str) -> None:
    path, _ = write(edit=edit)
    with pytest.raises(CheckpointError, match=rf"file\.pth.*{named}"):
        load_checkpoint(path)


def test_the_same_checks_hold_for_the_student(write: Callable[..., Any]) -> None:
    path, _ = write(edit=put("student", f"module.{ENCODER}", lambda old: old * math.nan))
    for options in ({"encoder": "student"}, {"paired": True}):
        with pytest.raises(CheckpointError, match=r"blocks\.2\.attn\.qkv\.weight holds NaN"):
            load_checkpoint(path, **options)
    load_checkpoint(path)  # the teacher is whole


def test_two_spellings_of_one_name_are_no_guess(write: Callable[..., Any]) -> None:
    path, _ = write(edit=put("student", "backbone.cls_token", torch.zeros(1, 1, 24)))
    with pytest.raises(CheckpointError, match=r"backbone\.cls_token"):
        load_checkpoint(path, encoder="student")


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("teacher", "backbone.blocks.{}.norm1.weight"),
        ("motion_loss", "module.motion_blocks_0.{}.norm1.weight"),
        ("motion_loss", "module.forward_predictor_0.{}.norm1.weight"),
    ],
    ids=["encoder", "midway", "forward"],
)
@pytest.mark.parametrize("index", ["100000", "9" * 5000], ids=["100000", "5000 digits"])
def test_stray_block_index_builds_no_giant_network(write: Callable[..., Any], part: str, name: str, index: str) -> None:
    path, _ = write(edit=put(part, name.format(index), torch.zeros(24)))
    with pytest.raises(CheckpointError, match=r"blocks|forward_predictor"):
        load_checkpoint(path)


def test_prefix_of_ddp_is_optional(write: Callable[..., Any]) -> None:
    def swap(checkpoint: dict[str, Any]) -> None:
        for part in ("student", "motion_loss"):
            checkpoint[part] = {name.removeprefix("module."): value for name, value in checkpoint[part].items()}
        checkpoint["teacher"] = {f"module.{name}": value for name, value in checkpoint["teacher"].items()}

    path, _ = write(edit=swap)
    expected = expected_state(released_checkpoint(TINY), paired=True)
    assert_same_state(load_checkpoint(path, paired=True).state_dict(), expected)


# Missing parts, other files


@pytest.mark.parametrize("part", ["teacher", "motion_loss"])
@pytest.mark.parametrize("value", [DROP, {}, None, [1, 2]], ids=["absent", "empty", "null", "list"])
def test_missing_part_is_named(write: Callable[..., Any], part: str, value: Any) -> None:
    def edit(checkpoint: dict[str, Any]) -> None:
        checkpoint[part] = value
        if value is DROP:
            del checkpoint[part]

    path, _ = write(edit=edit)
    with pytest.raises(CheckpointError, match=rf"file\.pth has no part '{part}'.*student"):
        load_checkpoint(path)


def test_encoder_without_the_other_one(write: Callable[..., Any]) -> None:
    path, _ = write(edit=lambda checkpoint: checkpoint.pop("student"))
    load_checkpoint(path)
    with pytest.raises(CheckpointError, match="no part 'student'"):
        load_checkpoint(path, paired=True)


def test_plain_state_dict_is_explained_in_few_words(tmp_path: Path) -> None:
    torch.save(nn.Sequential(*(nn.Linear(2, 2) for _ in range(200))).state_dict(), tmp_path / "plain.pth")
    with pytest.raises(CheckpointError, match=r"plain\.pth has no part .*0\.weight") as caught:
        load_checkpoint(tmp_path / "plain.pth")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "content", [torch.zeros(3), [1, 2], "text", None, 5], ids=["tensor", "list", "str", "None", "5"]
)
def test_file_of_something_else(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth holds a .*student, teacher, motion_loss"):
        load_checkpoint(tmp_path / "other.pth")


# Kinds of tensor


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_becomes_single(write: Callable[..., Any], dtype: torch.dtype) -> None:
    path, checkpoint = write(dtype=dtype)
    expected = {name: value.float() for name, value in expected_state(checkpoint).items()}
    network = load_checkpoint(path)
    assert network.dtype == torch.float32
    assert_same_state(network.state_dict(), expected)


def transposed(old: torch.Tensor) -> torch.Tensor:
    return old.t().contiguous().t()


def inside_a_larger_storage(old: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.full((7,), math.nan), old.flatten(), torch.zeros(5)])[7:-5].view(old.shape)


def every_second(old: torch.Tensor) -> torch.Tensor:
    return old.repeat_interleave(2, dim=-1)[..., ::2]


def every_second_row_from_the_third(old: torch.Tensor) -> torch.Tensor:
    return torch.cat([old.new_full((2, *old.shape[1:]), math.nan), old.repeat_interleave(2, dim=0)])[2::2]


VIEWS = [transposed, inside_a_larger_storage, every_second, every_second_row_from_the_third, nn.Parameter]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.__name__)
def test_views_load_as_what_they_show(write: Callable[..., Any], view: Callable[..., torch.Tensor]) -> None:
    path, checkpoint = write(edit=put("teacher", ENCODER, view))
    network = load_checkpoint(path)
    assert_same_state(network.state_dict(), expected_state(checkpoint))
    weight = network.encoder.blocks[2].attn.qkv.weight
    assert weight.is_contiguous()
    assert weight.untyped_storage().nbytes() == weight.nbytes


def test_tensors_that_share_a_storage_come_apart(write: Callable[..., Any]) -> None:
    names = [f"backbone.blocks.{index}.norm1.weight" for index in range(4)]

    def share(checkpoint: dict[str, Any]) -> None:
        teacher = checkpoint["teacher"]
        flat = torch.stack([teacher[name] for name in names])
        teacher.update(zip(names, flat, strict=True))
        teacher["backbone.norm.weight"] = teacher[names[0]]  # one tensor under two names

    path, checkpoint = write(edit=share)
    network = load_checkpoint(path)
    assert_same_state(network.state_dict(), expected_state(checkpoint))
    state = network.state_dict()
    assert len({value.untyped_storage().data_ptr() for value in state.values()}) == len(state)
    before = network.encoder.norm.weight.clone()
    with torch.no_grad():
        network.encoder.blocks[0].norm1.weight.zero_()
    assert torch.equal(network.encoder.norm.weight, before)


def test_plain_dicts_of_todays_torch(tmp_path: Path) -> None:
    checkpoint = released_checkpoint(TINY, optimizer=False)
    torch.save({key: dict(value) if key in PARTS else value for key, value in checkpoint.items()}, tmp_path / "new.pth")
    assert_same_state(load_checkpoint(tmp_path / "new.pth").state_dict(), expected_state(checkpoint))


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_pickle_protocols(tiny: tuple[Path, dict[str, Any]], tmp_path: Path, protocol: int) -> None:
    torch.save(tiny[1], tmp_path / "file.pth", pickle_protocol=protocol)
    assert_same_state(load_checkpoint(tmp_path / "file.pth").state_dict(), expected_state(tiny[1]))
