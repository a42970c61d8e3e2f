"""Images of classes: both layouts, the seeded split, what is refused."""

import pytest

from midway_zoo.errors import DataError, InputError, MissingFileError
from midway_zoo.readouts.image_folder import list_images, split_images
from tests.readouts.folders import COLOURS, write_classes


def test_train_and_val_share_their_classes(tmp_path) -> None:
    write_classes(tmp_path / "train", 3)
    write_classes(tmp_path / "val", 1)
    gone = tmp_path / "val" / "n01440764"
    (gone / "n01440764_0.JPEG").unlink()
    gone.rmdir()  # a class that is not tested does not shift the labels of the others
    (tmp_path / "train" / "n01443537" / "._n01443537_0.JPEG").write_bytes(b"stray of macOS")
    (tmp_path / "train" / ".cache").mkdir()
    train, val = split_images(tmp_path)
    assert (len(train), len(val)) == (9, 2)
    assert train.classes == val.classes == tuple(COLOURS)
    assert val.labels == (1, 2)
    assert [path.parent.name for path in val.files] == list(COLOURS)[1:]


def test_one_folder_is_split_by_seed_within_classes(tmp_path) -> None:
    write_classes(tmp_path, 5)
    train, val = split_images(tmp_path, val_share=0.4, seed=1)
    assert sorted(val.labels) == [0, 0, 1, 1, 2, 2]
    assert set(train.files).isdisjoint(val.files)
    assert len(train) + len(val) == 15
    assert split_images(tmp_path, val_share=0.4, seed=1)[1].files == val.files
    assert split_images(tmp_path, val_share=0.4, seed=2)[1].files != val.files
    assert sorted(split_images(tmp_path, val_share=0.99)[0].labels) == [0, 1, 2]  # one of each is left to learn from


def test_what_cannot_be_is_refused(tmp_path) -> None:
    with pytest.raises(MissingFileError, match="no folder"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match="one folder of images per class"):
        list_images(tmp_path)
    with pytest.raises(InputError, match=r"val_share=1\.0"):
        split_images(tmp_path, val_share=1.0)
    write_classes(tmp_path / "train", 1)
    with pytest.raises(MissingFileError, match="val; with one part alone"):
        split_images(tmp_path)
    with pytest.raises(DataError, match="holds one image"):
        split_images(tmp_path / "train")
    write_classes(tmp_path / "val", 1)
    (tmp_path / "val" / "n99999999").mkdir()
    with pytest.raises(DataError, match="n99999999 is not a class"):
        split_images(tmp_path)
    (tmp_path / "val" / "n99999999").rmdir()
    (tmp_path / "train" / "n00000000").mkdir()
    with pytest.raises(DataError, match="n00000000"):
        split_images(tmp_path)
