"""DAVIS-2017's layout, scores per object, sequence and data set, and palettes."""

import numpy as np
import pytest
import torch
from PIL import Image

from midway_zoo.errors import DataError, InputError, MissingFileError
from midway_zoo.readouts import davis
from midway_zoo.readouts.davis import davis_palette, evaluate_davis, list_davis, read_mask, write_mask
from midway_zoo.readouts.propagation import PropagationOptions
from tests.readouts.folders import write_davis

SMALL = PropagationOptions(side=48, context=2, radius=3)


def test_layout_and_palette(tmp_path) -> None:
    write_davis(tmp_path, {"bike-packing": 2, "judo": 1})
    first, second = list_davis(tmp_path)
    assert (first.name, second.name) == ("bike-packing", "judo")
    assert [path.name for path in first.frames] == [f"{index:05d}.jpg" for index in range(5)]
    labels, palette = read_mask(first.masks[0])
    assert labels.unique().tolist() == [0, 1, 2]
    assert palette[:9] == bytes([0, 0, 0, 128, 0, 0, 0, 128, 0])
    assert davis_palette()[3 * 255 :] == bytes([224, 224, 192])
    own = bytes(range(256)) * 3
    write_mask(tmp_path / "own.png", labels, own)
    with Image.open(tmp_path / "own.png") as image:
        assert image.mode == "P"
        assert bytes(image.getpalette()) == own
        assert torch.equal(torch.from_numpy(np.array(image)).long(), labels)


def test_scores_of_known_answers(nano, tmp_path, monkeypatch) -> None:
    """What follows the truth scores 1, what stays behind less; the mean is over objects, not over sequences."""
    write_davis(tmp_path, {"one": 1, "two": 2})

    def answers(model, frames, labels, options=None):
        for path in frames:
            truth = read_mask(str(path).replace("JPEGImages", "Annotations").replace(".jpg", ".png"))[0]
            yield truth if path.parent.name == "one" else truth.where(truth != 2, 0)

    monkeypatch.setattr(davis, "propagate_labels", answers)
    found = evaluate_davis(nano, tmp_path, masks=tmp_path / "masks")
    assert found.objects == {"one": {1: {"J": 1.0, "F": 1.0}}, "two": {1: {"J": 1, "F": 1}, 2: {"J": 0, "F": 0}}}
    assert found.sequences()["two"] == {"J&F": 0.5, "J": 0.5, "F": 0.5}
    assert found.mean()["J&F"] == pytest.approx(2 / 3)
    with Image.open(tmp_path / "masks" / "two" / "00003.png") as image:
        assert image.mode == "P"
        assert bytes(image.getpalette())[:768] == davis_palette()


def test_a_network_follows_coloured_squares(nano, tmp_path) -> None:
    write_davis(tmp_path, {"one": 1, "two": 2})
    found = evaluate_davis(nano, tmp_path, options=SMALL, limit=1)
    assert set(found.objects) == {"one"}
    assert 0 <= found.mean()["J"] <= 1


def test_void_and_late_objects(nano, tmp_path, monkeypatch) -> None:
    """255 is not an object; one that only comes later is not counted: the benchmark counts those of the first mask."""
    write_davis(tmp_path, {"one": 1})
    for index in (0, 2):
        path = tmp_path / f"Annotations/480p/one/{index:05d}.png"
        labels, palette = read_mask(path)
        labels[40:44, 50:] = 255 if index == 0 else 2
        write_mask(path, labels, palette, overwrite=True)
    seen = []

    def answers(model, frames, labels, options=None):
        seen.append(labels)
        return (labels for _ in frames)

    monkeypatch.setattr(davis, "propagate_labels", answers)
    found = evaluate_davis(nano, tmp_path)
    assert seen[0].unique().tolist() == [0, 1]
    assert set(found.objects["one"]) == {1}


def test_numbers_with_a_gap_and_a_first_mask_without_objects(nano, tmp_path, monkeypatch) -> None:
    """Objects count from 1 to the highest: one that is nowhere is right where none was found, as in the benchmark."""
    write_davis(tmp_path, {"one": 2})
    folder = tmp_path / "Annotations/480p/one"
    for path in folder.iterdir():
        labels, palette = read_mask(path)
        write_mask(path, labels.where(labels == 2, 0), palette, overwrite=True)

    def answers(model, frames, labels, options=None):
        return (labels for _ in frames)

    monkeypatch.setattr(davis, "propagate_labels", answers)
    found = evaluate_davis(nano, tmp_path).objects["one"]
    assert found[1] == {"J": 1, "F": 1}
    assert found[2]["J"] < 1
    write_mask(folder / "00000.png", torch.zeros(labels.shape).long(), overwrite=True)
    with pytest.raises(InputError, match=r"00000\.png shows no object"):
        evaluate_davis(nano, tmp_path)


def test_what_is_missing_is_named(nano, tmp_path) -> None:
    with pytest.raises(MissingFileError, match="lists that are there: none"):
        list_davis(tmp_path)
    write_davis(tmp_path, {"one": 1})
    with pytest.raises(MissingFileError, match="lists that are there: val"):
        list_davis(tmp_path, "train")
    (tmp_path / "Annotations/480p/one/00002.png").unlink()
    with pytest.raises(MissingFileError, match=r"00002\.png \(1 of 5"):
        list_davis(tmp_path)
    for index in (2, 3, 4):
        (tmp_path / f"JPEGImages/480p/one/{index:05d}.jpg").unlink()
    with pytest.raises(DataError, match=r"2 frame\(s\)"):
        list_davis(tmp_path)
    (tmp_path / "ImageSets/2017/val.txt").write_text("two\n")
    with pytest.raises(MissingFileError, match="JPEGImages/480p/two"):
        list_davis(tmp_path)
    (tmp_path / "ImageSets/2017/val.txt").write_text("")
    with pytest.raises(DataError, match="names no sequence"):
        list_davis(tmp_path)
    Image.fromarray(np.full((8, 8), 300, np.uint16)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match="value 300"):
        read_mask(tmp_path / "large.png")
