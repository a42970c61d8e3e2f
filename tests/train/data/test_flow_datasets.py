"""Every data set in its real folders and formats: which pairs there are, and what is read of them."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from midway_zoo.errors import ConfigError, InputError, MissingFileError
from midway_zoo.train.data.flow_datasets import DATASETS, FORMS, PARTS, dataset_key, find_dataset, list_part
from midway_zoo.train.data.flow_files import FlowEntry, FlowFiles
from midway_zoo.train.data.flow_pairs import read_sample
from tests.train.data import flow_miniatures as miniatures
from tests.train.data.flow_miniatures import SIZE, Miniature


def listed(name: str, root: Path, split: str = "train", **options: Any) -> FlowFiles:
    return DATASETS[name].files(root, split, **options)


def check_reading(made: Miniature, entry: FlowEntry) -> None:
    """What is read is what was written."""
    sample = read_sample(entry)
    for image, path in ((sample.source, entry.source), (sample.target, entry.target)):
        assert image.dtype == torch.uint8
        written = made.content[path.relative_to(made.root).as_posix()]
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), written)
    if entry.flow is None:
        assert sample.flow is None
        return
    assert sample.flow is not None
    assert sample.flow.dtype == torch.float32
    written = made.content[entry.flow.relative_to(made.root).as_posix()]
    np.testing.assert_array_equal(sample.flow.permute(1, 2, 0).numpy(), written)


def check_all(made: Miniature, files: FlowFiles) -> list[str]:
    """Read all; names of (source, target)."""
    for entry in files:
        check_reading(made, entry)
    return [f"{entry.source.name} {entry.target.name}" for entry in files]


def test_flying_chairs(tmp_path: Path) -> None:
    made = miniatures.flying_chairs(tmp_path)
    train = check_all(made, listed("flying_chairs", tmp_path))
    assert train == [f"{number:05d}_img1.ppm {number:05d}_img2.ppm" for number in (1, 2, 4)]
    assert check_all(made, listed("flying_chairs", tmp_path, "val")) == ["00003_img1.ppm 00003_img2.ppm"]


def test_flying_things_goes_both_ways_in_order(tmp_path: Path) -> None:
    made = miniatures.flying_things(tmp_path)
    files = listed("flying_things", tmp_path)
    found = check_all(made, files)
    one = ["0006.png 0007.png", "0007.png 0008.png", "0007.png 0006.png", "0008.png 0007.png"]
    assert found == one * 4  # two scenes in two passes
    assert [entry.name.removesuffix("/into_future/0006") for entry in files][::4] == [
        f"frames_{name}pass/TRAIN/{scene}" for name in ("clean", "final") for scene in ("A/0000", "B/0001")
    ]
    for entry in files:
        assert entry.flow is not None
        assert entry.flow.name.split("_")[1] == entry.source.stem
    sample = read_sample(files[0])
    assert sample.flow is not None
    assert sample.flow.isnan().sum() == 2
    assert sample.flow[:, 2, 3].isnan().all()
    assert len(listed("flying_things", tmp_path, "test", passes=["final"], directions=["into_past"])) == 2


def test_sintel_splits(tmp_path: Path) -> None:
    made = miniatures.sintel(tmp_path)
    names = {}
    for split in ("train", "subtrain", "subval", "test"):
        files = listed("sintel", tmp_path, split, passes=["final"])
        check_all(made, files)
        names[split] = [entry.name for entry in files]
    assert names["subval"] == [f"final/{name}/frame_{k:04d}" for name in ("temple_2", "temple_3") for k in (1, 2)]
    assert names["subtrain"] == [f"final/{name}/frame_{k:04d}" for name in ("alley_1", "bandage_2") for k in (1, 2)]
    assert sorted(names["train"]) == sorted(names["subval"] + names["subtrain"])
    assert names["test"] == ["final/ambush_1/frame_0001", "final/ambush_1/frame_0002"]
    assert len(listed("sintel", tmp_path)) == 2 * len(names["train"])


def test_sintel_masks(tmp_path: Path) -> None:
    miniatures.sintel(tmp_path)
    sample = read_sample(listed("sintel", tmp_path, passes=["clean"], invalid=True)[0], occlusion=True)
    assert sample.flow is not None
    assert sample.occlusion is not None
    assert sample.flow.isnan().any(0).nonzero().tolist() == [[1, 1]]
    assert sample.occlusion.nonzero().tolist() == [[4, 5]]


@pytest.mark.parametrize(("name", "images"), [("kitti_2012", "colored_0"), ("kitti_2015", "image_2")])
def test_kitti(tmp_path: Path, name: str, images: str) -> None:
    made = miniatures.kitti(tmp_path, images)
    made.image(f"training/{images}/000000_09.png")  # of the multi-view download
    files = listed(name, tmp_path)
    assert check_all(made, files) == ["000000_10.png 000000_11.png", "000001_10.png 000001_11.png"]
    assert files.kind == "sparse"
    occlusion = read_sample(files[0], occlusion=True).occlusion
    assert occlusion is not None
    assert occlusion.nonzero().tolist() == [[5, 6]]
    test = listed(name, tmp_path, "test")
    check_all(made, test)
    assert [entry.name for entry in test] == ["000000_10", "000001_10"]


def test_hd1k_pairs_stay_in_their_sequence(tmp_path: Path) -> None:
    made = miniatures.hd1k(tmp_path)
    found = check_all(made, listed("hd1k", tmp_path))
    assert found == [
        "000000_0000.png 000000_0001.png",
        "000000_0001.png 000000_0002.png",
        "000001_0000.png 000001_0001.png",
    ]
    assert check_all(made, listed("hd1k", tmp_path, "test")) == ["000000_10.png 000000_11.png"]


def test_tartanair_masks_what_was_cut_off_alone(tmp_path: Path) -> None:
    made = miniatures.tartanair(tmp_path)
    files = listed("tartanair", tmp_path)
    assert check_all(made, files) == ["000000_left.png 000001_left.png", "000001_left.png 000002_left.png"] * 3
    assert [entry.name.rsplit("/", 1)[0] for entry in files][::2] == [
        "ocean/ocean/Easy/P000",
        "ocean/ocean/Hard/P001",
        "office/Easy/P003",
    ]


def test_spring_takes_every_second_vector_unscaled(tmp_path: Path) -> None:
    made = miniatures.spring(tmp_path)
    files = listed("spring", tmp_path)
    names = [f"frame_left_000{a}.png frame_left_000{b}.png" for a, b in ((1, 2), (2, 3), (2, 1), (3, 2))]
    assert check_all(made, files) == names
    sample = read_sample(files[0])
    assert sample.flow is not None
    assert sample.flow.shape == (2, *SIZE)
    assert sample.flow.isnan().any(0).nonzero().tolist() == [[2, 3]]
    assert len(listed("spring", tmp_path, "test", directions=["into_future"])) == 2


def test_values_that_cannot_be_flow_are_invalid(tmp_path: Path) -> None:
    miniatures.flying_chairs(tmp_path, "1")
    flow = np.ones((*SIZE, 2), np.float32)
    flow[0, :5] = [[1e4, 0], [9999, 0], [8000, 8000], [-2e9, 0], [0, np.inf]]
    (tmp_path / "data/00001_flow.flo").write_bytes(b"PIEH" + struct.pack("<ii", SIZE[1], SIZE[0]) + flow.tobytes())
    found = read_sample(listed("flying_chairs", tmp_path)[0]).flow
    assert found is not None
    assert found.isnan().all(0)[0, :6].tolist() == [True, False, True, True, True, False]


@pytest.mark.parametrize(
    ("make", "name", "missing"),
    [
        (miniatures.flying_chairs, "flying_chairs", "data/00002_img2.ppm"),
        (miniatures.flying_chairs, "flying_chairs", "FlyingChairs_train_val.txt"),
        (
            miniatures.flying_things,
            "flying_things",
            "optical_flow/TRAIN/A/0000/into_past/left/OpticalFlowIntoPast_0007_L.pfm",
        ),
        (miniatures.sintel, "sintel", "training/clean/temple_2/frame_0002.png"),
        (miniatures.sintel, "sintel", "training/flow/temple_2/frame_0002.flo"),
        (
            lambda root: miniatures.kitti(root, "image_2"),
            "kitti_2015",
            "training/image_2/000000_11.png",
        ),
        (
            lambda root: miniatures.kitti(root, "image_2"),
            "kitti_2015",
            "training/flow_occ/000001_10.png",
        ),
        (miniatures.hd1k, "hd1k", "hd1k_flow_gt/flow_occ/000000_0001.png"),
        (miniatures.tartanair, "tartanair", "office/Easy/P003/flow/000001_000002_mask.npy"),
        (
            miniatures.spring,
            "spring",
            "train/0001/flow_BW_left/flow_BW_left_0002.flo5",
        ),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, make: Callable[[Path], Miniature], name: str, missing: str) -> None:
    make(tmp_path)
    listed(name, tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(MissingFileError, match=f"{missing}. Expected: "):
        listed(name, tmp_path)


@pytest.mark.parametrize("name", sorted(PARTS))
def test_an_empty_folder_says_what_was_expected(tmp_path: Path, name: str) -> None:
    (tmp_path / DATASETS[PARTS[name].dataset].folders[0]).mkdir()
    with pytest.raises(MissingFileError, match="Expected"):
        list_part(name, tmp_path)


def test_a_data_set_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    miniatures.sintel(tmp_path / "MPI-Sintel")
    assert len(list_part("sintel_clean_subval", tmp_path)) == 4
    assert f"sintel_clean_subval: 4 pairs in {tmp_path / 'MPI-Sintel'}, of 98 when complete" in caplog.text
    assert len(list_part("sintel_clean_subval", None, {"sintel": str(tmp_path / "MPI-Sintel")})) == 4
    with pytest.raises(MissingFileError, match="no folder FlyingChairs or FlyingChairs_release in"):
        find_dataset("flying_chairs", tmp_path)
    with pytest.raises(MissingFileError, match="nowhere"):
        find_dataset("spring", tmp_path, {"spring": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigError, match="Did you mean 'sintel'"):
        find_dataset("sintel", tmp_path, {"sintell": "x"})
    with pytest.raises(ConfigError, match=r"data\.root"):
        find_dataset("spring", None)
    with pytest.raises(ConfigError, match="sintel_clean_subval"):
        list_part("sintel_clean_subvall", tmp_path)


def test_rows_of_the_table_agree_with_themselves() -> None:
    names = [name for data in DATASETS.values() for name in data.short]
    assert len(set(names)) == len(names)
    for key, data in DATASETS.items():
        assert data.evaluated in data.splits
        assert data.form is None or data.form in FORMS
        assert {dataset_key(name) for name in (key, key.replace("_", "-"), *data.short)} == {key}
    with pytest.raises(ConfigError, match="Did you mean 'flying_things'"):
        dataset_key("flying_thing")


def test_parts_have_the_published_numbers_of_pairs() -> None:
    pairs = {name: part.pairs for name, part in PARTS.items()}
    assert pairs["sintel_clean_train"] == 1041 == pairs["sintel_clean_subtrain"] + pairs["sintel_clean_subval"]
    assert pairs["flying_things_train"] == 80604 == 2 * pairs["flying_things_final_train"]
    assert pairs["flying_chairs_train"] == 22232
    assert pairs["tartanair_train"] == 306268


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    made = miniatures.sintel(tmp_path, frames=2)
    files = listed("sintel", tmp_path, passes=["clean"], invalid=True)
    entry = files[-1]
    assert entry.flow is not None
    assert entry.mask is not None
    entry.mask.write_bytes(miniatures.png(np.zeros((3, 4, 1), np.uint8)))
    with pytest.raises(InputError, match="4 x 3, its image 16 x 12"):
        read_sample(entry)
    entry.mask.unlink()
    with pytest.raises(MissingFileError, match="no mask"):
        read_sample(entry)
    entry.flow.write_bytes(b"PIEH" + struct.pack("<ii", 4, 3) + bytes(96))
    with pytest.raises(InputError, match="4 x 3, its image 16 x 12"):
        read_sample(entry)
    entry.target.write_bytes(miniatures.png(np.zeros((3, 4, 3), np.uint8)))
    with pytest.raises(InputError, match="differ in size: 16 x 12 and 4 x 3"):
        read_sample(entry)
    with pytest.raises(IndexError):
        files[len(files)]
    assert made.root == files.root


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY broken", np.zeros(3)])
def test_a_damaged_mask_is_refused(tmp_path: Path, content: object) -> None:
    miniatures.tartanair(tmp_path)
    entry = listed("tartanair", tmp_path)[0]
    assert entry.mask is not None
    if isinstance(content, bytes):
        entry.mask.write_bytes(content)
    else:
        np.save(entry.mask, content)
    with pytest.raises(InputError, match=r"mask|expected"):
        read_sample(entry)


def test_a_split_file_of_something_else_is_refused(tmp_path: Path) -> None:
    miniatures.flying_chairs(tmp_path)
    (tmp_path / "FlyingChairs_train_val.txt").write_text("1\n3\n")
    with pytest.raises(InputError, match="1 \\(train\\)"):
        listed("flying_chairs", tmp_path)
