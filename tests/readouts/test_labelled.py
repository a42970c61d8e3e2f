"""Labelled data sets as they are published: which files belong together, and what their masks mean."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from midway_zoo.errors import DataError, InputError, MissingFileError
from midway_zoo.readouts.labelled import (
    SETS,
    find_labelled,
    parse_classes,
    published_classes,
    read_labelled,
    spread,
)
from tests.readouts.labelled_files import (
    save,
    write_ade20k,
    write_bdd100k,
    write_cityscapes,
    write_folder,
    write_wtsem,
)


def seen(files, number: int = 0) -> set[int]:
    """Values of a mask, which has its image's size."""
    image, labels = files.read(number, len(files.classes.names))
    assert image.shape[1:] == labels.shape
    return set(labels.unique().tolist())


@pytest.mark.parametrize("split", ["train", "val"])
def test_bdd100k_leaves_out_what_has_no_partner(tmp_path: Path, split: str, caplog) -> None:
    write_bdd100k(tmp_path / "bdd100k")
    with caplog.at_level(logging.WARNING):
        files = find_labelled("bdd100k", tmp_path / "bdd100k", split)
    assert [image.name for image, _ in files.pairs] == [f"0a0a0b1a-{split}{number}.jpg" for number in range(2)]
    assert [path.name for path in files.left_out] == [f"lone-image-{split}.jpg", f"lone-mask-{split}.png"]
    assert "1 image(s) without mask and 1 mask(s) without image" in caplog.text
    assert f"lone-image-{split}.jpg" in caplog.text
    assert len(files.classes.names) == len(files.classes.palette) == 19
    assert files.classes.names[10] == "sky"
    assert seen(files) == {0, 10, 255}
    assert find_labelled("bdd100k", tmp_path, split).pairs == files.pairs  # the folder that holds it


def test_bdd100k_of_2018(tmp_path: Path) -> None:
    write_bdd100k(tmp_path / "new")
    for old, new in (("images", "images/10k"), ("labels", "labels/sem_seg/masks")):
        (tmp_path / "seg").mkdir(exist_ok=True)
        (tmp_path / "new" / new).rename(tmp_path / "seg" / old)
    for mask in (tmp_path / "seg" / "labels").rglob("*.png"):
        mask.rename(mask.with_name(f"{mask.stem}_train_id.png"))
    assert len(find_labelled("bdd100k", tmp_path, "val").pairs) == 2


def test_cityscapes_label_ids_become_train_ids(tmp_path: Path) -> None:
    write_cityscapes(tmp_path)
    files = find_labelled("cityscapes", tmp_path, "val")
    assert len(files.pairs) == 4
    assert files.pairs[0][1].name == "aachen_000000_000019_gtFine_labelIds.png"
    assert not files.left_out
    image, labels = files.read(0, 19)
    bright = image.float().mean(0) > 128
    assert (labels[2:] == np.where(bright[2:], 10, 0)).all()  # sky, road
    assert (labels[0] == 255).all()
    assert labels[1, 0] == 255


def test_every_label_id_of_cityscapes(tmp_path: Path) -> None:
    every = np.arange(34, dtype=np.uint8)[None]
    save(tmp_path / "a.png", every)
    save(tmp_path / "i.png", np.zeros((1, 34, 3), np.uint8))
    _, labels = read_labelled(tmp_path / "i.png", tmp_path / "a.png", 19, SETS["cityscapes"])
    kept = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert labels[0, kept].tolist() == list(range(19))
    assert (np.delete(labels[0].numpy(), kept) == 255).all()
    save(tmp_path / "a.png", every * 3)
    with pytest.raises(InputError, match=r"a\.png: the value 36 is not a labelId"):
        read_labelled(tmp_path / "i.png", tmp_path / "a.png", 19, SETS["cityscapes"])


def test_zero_of_ade20k_is_no_class(tmp_path: Path) -> None:
    write_ade20k(tmp_path / "ADEChallengeData2016")
    files = find_labelled("ade20k", tmp_path, "val")
    assert [image.name for image, _ in files.pairs] == ["ADE_val_00000001.jpg", "ADE_val_00000002.jpg"]
    assert len(set(files.classes.names)) == len(files.classes.palette) == 150
    assert (files.classes.names[0], files.classes.names[149]) == ("wall", "flag")
    assert seen(files) == {0, 149, 255}
    save(files.pairs[0][1], np.full((48, 64), 151, np.uint8))
    with pytest.raises(InputError, match=r"value 151: 0 to 150 is expected"):
        files.read(0, 150)


def test_wtsem_has_a_folder_for_each_city(tmp_path: Path) -> None:
    write_wtsem(tmp_path)
    files = find_labelled("wtsem", tmp_path, "train")
    assert [str(image.relative_to(tmp_path / "images" / "train")) for image, _ in files.pairs] == [
        "Amsterdam/00000.jpg", "Amsterdam/00001.jpg", "Venice/00000.jpg", "Venice/00001.jpg",
    ]  # fmt: skip
    assert seen(files) == {2, 6}
    assert files.classes == published_classes(SETS["ade20k"])
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\nf\ng\n")
    assert find_labelled("wtsem", tmp_path, "train").classes.names == tuple("abcdefg")


def test_files_of_a_folder_belong_together_by_stem(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    (tmp_path / "masks" / "0.png").unlink()
    (tmp_path / "images" / "2.jpg").unlink()
    (tmp_path / "images" / "._1.jpg").write_bytes(b"stray")
    assert [(image.name, mask.name) for image, mask in find_labelled("folder", tmp_path).pairs] == [("1.jpg", "1.png")]
    (tmp_path / "masks" / "deep").mkdir()
    (tmp_path / "masks" / "1.png").rename(tmp_path / "masks" / "deep" / "1.png")
    assert find_labelled("folder", tmp_path).pairs[0][1].parent.name == "deep"
    (tmp_path / "images" / "1.png").write_bytes((tmp_path / "images" / "1.jpg").read_bytes())
    with pytest.raises(DataError, match="same stem"):
        find_labelled("folder", tmp_path)
    (tmp_path / "empty" / "images").mkdir(parents=True)
    (tmp_path / "empty" / "masks").mkdir()
    with pytest.raises(DataError, match="no image of 0"):
        find_labelled("folder", tmp_path / "empty")


def test_a_folder_may_have_splits_and_classes(tmp_path: Path) -> None:
    write_folder(tmp_path / "all", 4)
    for split, numbers in (("train", (0, 1, 2)), ("val", (3,))):
        for room, end in (("images", "jpg"), ("masks", "png")):
            (tmp_path / "own" / room / split).mkdir(parents=True)
            for number in numbers:
                name = f"{number}.{end}"
                (tmp_path / "all" / room / name).rename(tmp_path / "own" / room / split / name)
    (tmp_path / "own" / "classes.txt").write_text("dark\t0 0 0\nbright\t255 255 0\n")
    assert [len(find_labelled("folder", tmp_path / "own", split).pairs) for split in ("train", "val")] == [3, 1]
    classes = find_labelled("folder", tmp_path / "own").classes
    assert classes.names == ("dark", "bright")
    assert classes.palette == ((0, 0, 0), (255, 255, 0))


@pytest.mark.parametrize("write", [write_bdd100k, write_cityscapes, write_ade20k])
def test_missing_folders_are_named(tmp_path: Path, write: Callable[[Path], None]) -> None:
    name = write.__name__.removeprefix("write_")
    with pytest.raises(MissingFileError, match=rf"{tmp_path}.*must hold .*train"):
        find_labelled(name, tmp_path, "train")


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'cityscapes'"):
        find_labelled("cityscape", tmp_path)
    with pytest.raises(InputError, match="train or val"):
        find_labelled("ade20k", tmp_path, "validation")
    for text, message in (
        ("a\n\nb", "line 2"),
        ("a\t1 2", "not a colour"),
        ("a\t1 2 300", "not a colour"),
        ("a\nb\t1 2 3", "1 of 2"),
    ):
        with pytest.raises(InputError, match=message):
            parse_classes(text, "classes.txt")


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((48, 64), 9, np.uint8), r"value 9: 0 to 2, or 255"),
        (np.zeros((48, 60), np.uint8), "size"),
        (np.zeros((64, 48), np.uint8), "rotated by its EXIF"),
        (np.zeros((48, 64, 3), np.uint8), "one channel"),
    ],
)
def test_bad_masks_are_named(tmp_path: Path, mask: np.ndarray, message: str) -> None:
    write_folder(tmp_path, 1)
    save(tmp_path / "masks" / "0.png", mask)
    with pytest.raises(InputError, match=rf"0\.png.*{message}"):
        find_labelled("folder", tmp_path).read(0, 3)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_picture_and_mask_stay_together_when_a_picture_is_turned_by_its_exif(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((24, 40), np.uint8)
    upright[:8, :20] = 1
    turned = Image.fromarray(upright * 200)
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = turned.transpose(back[orientation]) if orientation in back else turned
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    Image.fromarray(upright).save(tmp_path / "a.png")
    picture, mask = read_labelled(tmp_path / "a.jpg", tmp_path / "a.png", 2, SETS["folder"])
    assert ((picture[0] > 100) == (mask == 1)).float().mean() > 0.98


def test_pictures_of_16_bits_are_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    save(tmp_path / "b.png", np.zeros((32, 32), np.uint8))
    picture, _ = read_labelled(tmp_path / "a.png", tmp_path / "b.png", 2, SETS["folder"])
    np.testing.assert_allclose(picture[0].numpy(), ramp / 257, atol=1)


def test_spread() -> None:
    pairs = [(Path(str(number)), Path()) for number in range(10)]
    assert [image.name for image, _ in spread(pairs, 4)] == ["0", "2", "5", "7"]
    assert spread(pairs, None) == spread(pairs, 20) == pairs
