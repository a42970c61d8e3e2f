"""Which samples a run sees, and what becomes of those that cannot be read."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from midway_zoo.errors import ConfigError, DataError, InputError
from midway_zoo.scenes import ScenesConfig
from midway_zoo.train.data.flow_augment import FlowAugment, FlowAugmentConfig
from midway_zoo.train.data.flow_datasets import PARTS
from midway_zoo.train.data.flow_files import FlowFiles, Relative
from midway_zoo.train.data.flow_pairs import (
    MIXTURES,
    FlowDataConfig,
    FlowPairs,
    FlowStream,
    check_flow_data,
    flow_pairs,
    list_mixture,
)
from midway_zoo.train.data.loading import FailureCounter, StepBatches, collate, make_loader
from tests.train.data import flow_miniatures as miniatures


def files(title: str, count: int) -> FlowFiles:
    return FlowFiles(title, Path("/data"), "dense", (Relative(f"{title}{k}", "a", "b", "c") for k in range(count)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    miniatures.sintel(tmp_path / "Sintel")
    miniatures.flying_chairs(tmp_path / "FlyingChairs")
    miniatures.flying_things(tmp_path / "FlyingThings3D")
    miniatures.tartanair(tmp_path / "TartanAir")
    return tmp_path


def test_a_round_brings_every_pair_as_often_as_it_is_repeated() -> None:
    stream = FlowStream([(files("a", 3), 2), (files("b", 5), 1)], seed=1)
    assert stream.round_pairs == 11
    rounds = [[stream.draw(k).entry.name for k in range(r * 11, r * 11 + 11)] for r in range(3)]
    for names in rounds:
        assert Counter(names) == {**{f"a{k}": 2 for k in range(3)}, **{f"b{k}": 1 for k in range(5)}}
    assert rounds[0] != rounds[1]


def test_samples_depend_on_seed_and_number_alone() -> None:
    parts = [(files("a", 30), 2), (files("b", 50), 1)]
    one, again, other = (FlowStream(parts, seed) for seed in (1, 1, 2))
    backwards = [again.draw(k) for k in reversed(range(300))][::-1]
    assert [one.draw(k) for k in range(300)] == backwards
    assert [one.draw(k).entry for k in range(300)] != [other.draw(k).entry for k in range(300)]
    assert one.replacement(7, 1) == again.replacement(7, 1)
    assert len({one.replacement(7, attempt).entry.name for attempt in range(1, 9)}) > 3
    draws = [one.draw(7), one.draw(8), one.replacement(7, 1), one.replacement(7, 2)]
    assert len({one.augment_rng(draw).integers(2**62) for draw in draws}) == len(draws)


def test_the_full_mixture_is_the_papers() -> None:
    weights = {name: repeats * PARTS[name].pairs for name, repeats in MIXTURES["full"].items()}
    assert weights == {
        "sintel_clean_subtrain": 40 * 943,
        "sintel_final_subtrain": 40 * 943,
        "flying_things_train": 4 * 80604,
        "flying_chairs_train": 4 * 22232,
        "tartanair_train": 306268,
    }
    assert set(MIXTURES["small"]) == {"flying_chairs_train", "flying_things_train"}


def test_mixtures_of_files(root: Path) -> None:
    full = list_mixture(FlowDataConfig(root=str(root)))
    assert [(part.title, len(part), repeats) for part, repeats in full] == [
        ("Sintel subtrain", 4, 40),
        ("Sintel subtrain", 4, 40),
        ("FlyingThings3D train", 16, 4),
        ("FlyingChairs train", 3, 4),
        ("TartanAir", 6, 1),
    ]
    own = FlowDataConfig(parts={"flying_chairs_val": 3}, roots={"flying_chairs": str(root / "FlyingChairs")})
    assert [(len(part), repeats) for part, repeats in list_mixture(own)] == [(1, 3)]


def test_configuration_through_omegaconf() -> None:
    given = OmegaConf.from_dotlist(["parts.sintel_clean_train=2", "crop=[64,64]", "augment.hue=0.1", "scenes.motion=4"])
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(FlowDataConfig), given))
    assert isinstance(config, FlowDataConfig)
    check_flow_data(config)
    assert config.parts == {"sintel_clean_train": 2}
    assert config.augment == replace(FlowAugmentConfig(), hue=0.1)
    assert config.scenes.motion == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "file"}, r"data\.source='file'"),
        ({"mixture": "medium"}, r"data\.mixture='medium'"),
        ({"parts": {"sintel": 1}}, "Did you mean"),
        ({"parts": {"sintel_clean_train": 0}}, r"data\.parts\.sintel_clean_train=0"),
        ({"crop": [64]}, r"data\.crop"),
        ({"epoch_pairs": 0}, r"data\.epoch_pairs"),
        ({"augment": FlowAugmentConfig(scale_p=2)}, r"augment\.scale_p"),
    ],
)
def test_values_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        flow_pairs(replace(FlowDataConfig(root="/data"), **changes), seed=0)  # type: ignore[arg-type]


def test_a_stream_needs_parts() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        FlowStream([], seed=0)


def batches(config: FlowDataConfig, *, workers: int = 0, rank: int = 0, world: int = 1) -> list[dict[str, object]]:
    dataset = flow_pairs(config, seed=4)
    steps = StepBatches(1, 4, rank, world, last_step=4)
    return list(make_loader(dataset, steps, collate, num_workers=workers))


@pytest.mark.parametrize("source", ["files", "scenes"])
def test_batches_do_not_depend_on_workers_or_processes(root: Path, source: str) -> None:
    config = FlowDataConfig(source=source, root=str(root), crop=[8, 10], scenes=ScenesConfig(height=16, width=16))
    one = batches(config)
    assert [batch["index"].tolist() for batch in one] == [[4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]  # type: ignore[attr-defined]
    parallel = batches(config, workers=2)
    halves = [batches(config, rank=rank, world=2) for rank in (0, 1)]
    for k, batch in enumerate(one):
        assert batch["failures"] == []
        for key in ("source", "target", "flow"):
            value = batch[key]
            assert isinstance(value, torch.Tensor)
            assert value.shape == (4, 2 if key == "flow" else 3, 8, 10)
            assert value.dtype == (torch.float32 if key == "flow" else torch.uint8)
            for same in (parallel[k][key], torch.cat([half[k][key] for half in halves])):  # type: ignore[misc]
                assert torch.equal(value.nan_to_num(1e9), same.nan_to_num(1e9))  # type: ignore[attr-defined]


def test_a_bad_file_is_replaced_the_same_way_everywhere(root: Path) -> None:
    config = FlowDataConfig(root=str(root), parts={"flying_chairs_train": 1}, crop=[8, 10])
    bad = root / "FlyingChairs/data/00002_flow.flo"
    bad.write_bytes(b"PIEH")
    dataset = flow_pairs(config, seed=4)
    assert isinstance(dataset, FlowPairs)
    samples = [dataset[k] for k in range(12)]
    hit = [k for k in range(12) if dataset.stream.draw(k).entry.flow == bad]
    assert len(hit) == 4
    assert [k for k, sample in enumerate(samples) if sample["failures"]] == hit
    path, reason = samples[hit[0]]["failures"][0]
    assert path.endswith("00002_img1.ppm")
    assert "00002_flow.flo is not a .flo file" in reason or "does not fit" in reason
    again = flow_pairs(config, seed=4)[hit[0]]
    assert torch.equal(again["source"], samples[hit[0]]["source"])
    batch = collate(samples)
    with pytest.raises(DataError, match="00002_img1"):
        FailureCounter(0.005).update(batch["failures"], pairs=len(batch["index"]))


def test_nothing_to_read_ends_the_run(root: Path) -> None:
    config = FlowDataConfig(root=str(root), parts={"flying_chairs_val": 1}, crop=[8, 10])
    dataset = flow_pairs(config, seed=0)
    (root / "FlyingChairs/data/00003_img2.ppm").unlink()
    with pytest.raises(DataError, match="00003_img2"):
        dataset[0]


def test_other_errors_are_not_swallowed(root: Path) -> None:
    """Only what is wrong with a file is replaced; a mistake of the configuration is not."""
    stream = FlowStream([(part, 1) for part, _ in list_mixture(FlowDataConfig(root=str(root)))], seed=0)
    test = FlowFiles("test", root / "Sintel", "dense", [Relative("x", *["test/clean/ambush_1/frame_0001.png"] * 2)])
    augment = FlowAugment(FlowAugmentConfig(), (8, 10))
    with pytest.raises(InputError, match="submissions"):
        FlowPairs(FlowStream([(test, 1)], seed=0), augment)[0]
    assert FlowPairs(stream, augment)[3]["failures"] == []
    with pytest.raises(ConfigError, match="frames=3"):
        flow_pairs(FlowDataConfig(source="scenes", scenes=ScenesConfig(frames=3)), seed=0)
