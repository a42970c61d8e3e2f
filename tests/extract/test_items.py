"""What an input is found to hold."""

import io
import tarfile
from pathlib import Path

import fsspec
import pytest

from midway_zoo.errors import InputError, MissingExtraError, MissingFileError
from midway_zoo.extract.items import Item, find_items, tar_members
from midway_zoo.extract.places import filesystem


def keys(source: object, images: str = "each") -> list[str]:
    return [item.key for item in find_items(str(source), images).items]


def as_tar(folder: Path, path: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for file in sorted(folder.rglob("*.*"), reverse=True):
            archive.add(file, file.relative_to(folder).as_posix())
    return path


def test_folder(clips: Path, pictures: Path) -> None:
    """With all below it, in natural order; of other files nothing."""
    assert keys(clips) == ["a1.mp4", "a2.mp4", "a10.mp4", "more/b.mp4"]
    assert keys(pictures) == [f"{'cats' if index < 4 else 'dogs'}/{index}.png" for index in range(7)]


def test_images_are_frames_where_clips_are_wanted(pictures: Path) -> None:
    items = find_items(str(pictures), "clip").items
    assert [(item.key, item.kind) for item in items] == [("cats", "frames"), ("dogs", "frames")]
    assert [path for path, _, _ in items[1].members] == ["dogs/4.png", "dogs/5.png", "dogs/6.png"]


def test_list(clips: Path, pictures: Path, tmp_path: Path) -> None:
    """Files of any ending, folders, missing ones and comments."""
    (tmp_path / "odd.bin").write_bytes(b"video?")
    listed = tmp_path / "all.txt"
    listed.write_text(f"# mine\nodd.bin\n{clips}/a2.mp4\ngone.mp4  # was here\n{pictures}/dogs\ns3://bucket/x.mp4\n")
    found = keys(listed)
    assert found[:2] == [str(clips / "a2.mp4"), f"{pictures}/dogs/4.png"]
    assert {"odd.bin", "gone.mp4", "s3://bucket/x.mp4"} <= set(found)


def test_patterns(clips: Path, tmp_path: Path) -> None:
    assert keys(f"{clips}/a1*.mp4") == ["a1.mp4", "a10.mp4"]
    assert keys(f"{clips}/**/*") == ["a1.mp4", "a2.mp4", "a10.mp4", "more/b.mp4"]
    assert keys(f"{clips}/a{{1..2}}.mp4") == ["a1.mp4", "a2.mp4"]
    with pytest.raises(MissingFileError, match=r"a3\.mp4"):
        keys(f"{clips}/a{{2..3}}.mp4")
    with pytest.raises(MissingFileError, match="no file matches"):
        keys(f"{clips}/*.avi")


def test_one_file(clips: Path) -> None:
    assert keys(clips / "a1.mp4") == ["a1.mp4"]


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tar.gz", "w:gz"), ("x.tgz", "w:gz")])
def test_tar(clips: Path, pictures: Path, tmp_path: Path, name: str, mode: str) -> None:
    """Members by name; where they begin is where they are read."""
    whole = as_tar(pictures, tmp_path / name, mode)
    assert keys(whole)[:2] == [f"{name}::cats/0.png", f"{name}::cats/1.png"]
    assert keys(whole, "clip") == [f"{name}::cats", f"{name}::dogs"]
    if mode == "w":
        member, offset, size = next(tar_members(str(whole)))
        assert whole.read_bytes()[offset : offset + size] == (pictures / member).read_bytes()


def test_broken_tar_is_an_item_that_will_fail(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"no tar at all" * 100)
    assert [(item.key, item.kind) for item in find_items(str(tmp_path), "each").items] == [("bad.tar", "tar")]


def test_remote(clips: Path) -> None:
    """The same through fsspec."""
    memory = fsspec.filesystem("memory")
    try:
        for path in clips.rglob("*.mp4"):
            memory.pipe(f"/found/{path.relative_to(clips)}", path.read_bytes())
        memory.pipe("/found/list.txt", b"a2.mp4\n# no\nmore/b.mp4\n")
        listing = find_items("memory://found", "each")
        assert [item.key for item in listing.items] == ["a1.mp4", "a2.mp4", "a10.mp4", "more/b.mp4"]
        assert listing.items[0].size == (clips / "a1.mp4").stat().st_size
        assert keys("memory://found/a1*.mp4") == ["a1.mp4", "a10.mp4"]
        assert keys("memory://found/list.txt") == ["a2.mp4", "more/b.mp4"]
        assert keys("memory://found/a2.mp4") == ["a2.mp4"]
        with pytest.raises(MissingFileError):
            keys("memory://nowhere")
    finally:
        memory.rm("/found", recursive=True)


def test_drivers_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    with pytest.raises(InputError, match="nonsense"):
        filesystem("nonsense://x")
    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    with pytest.raises(MissingExtraError, match='pip install "s3fs"'):
        filesystem("s3://bucket/x")


def test_nothing(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nowhere"):
        keys(tmp_path / "nowhere")
    with pytest.raises(InputError, match="nothing to extract"):
        keys(tmp_path)


def test_links_in_circles(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").symlink_to(clips / "a1.mp4")
    (tmp_path / "again").symlink_to(tmp_path)
    assert keys(tmp_path) == ["x.mp4"]


def test_json() -> None:
    item = Item("a::b.png", "image", (("a.tar", 512, 3),))
    assert Item.from_json(item.to_json()) == item
    assert item.size == 3


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    """A name that is not UTF-8 has a key that every format can hold."""
    (tmp_path / "caf\udce9.png").touch()
    item = find_items(str(tmp_path), "each").items[0]
    assert item.key == "caf\\xe9.png"
    assert Path(tmp_path / item.members[0][0]).exists()


def test_hidden_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("._a.png", "a.png", "a.json"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
    assert keys(tmp_path / "x.tar") == ["x.tar::a.png"]
