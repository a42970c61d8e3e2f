"""Damaged files: the right numbers, or a clear error."""

import random
import struct
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midway_zoo import MidwayNetwork, load_checkpoint
from midway_zoo.errors import CheckpointError, ConfigError
from tests.weights.released_files import assert_same_state, edit_zip
from tests.weights.safety.hostile import Directory, Tiny, address_space, memory_limit, refused, right_or_refused


def flipped(data: bytes, position: int, bit: int = 0) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def patched(data: bytes, position: int, value: bytes) -> bytes:
    return data[:position] + value + data[position + len(value) :]


@pytest.mark.parametrize("part", [0.0005, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999])
def test_truncated(tiny: Tiny, path: Path, part: float) -> None:
    refused(tiny.write(path, tiny.data[: int(part * len(tiny.data))]), r"file\.pth is truncated or damaged.*again")


@pytest.mark.parametrize("missing", [1, 2, 21, 22, 23, 41, 42, 98, 99, 200])
def test_truncated_near_the_end(tiny: Tiny, path: Path, missing: int) -> None:
    refused(tiny.write(path, tiny.data[:-missing]), r"file\.pth is truncated or damaged")


@pytest.mark.parametrize("kept", [4, 5, 29, 30, 31, 64])
def test_truncated_near_the_start(tiny: Tiny, path: Path, kept: int) -> None:
    refused(tiny.write(path, tiny.data[:kept]), r"file\.pth is truncated or damaged")


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("entry", ["data.pkl", "kept", "same size"])
def test_flipped_byte_in_content_is_found(
    tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path, entry: str, where: str
) -> None:
    content = directory.content(keys.get(entry, entry))
    position = {"first": content[0], "middle": content[len(content) // 2], "last": content[-1]}[where]
    refused(tiny.write(path, flipped(tiny.data, position)), r"file\.pth.*CRC-32")


def test_flipped_byte_in_the_optimizer_does_not_matter(
    tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path
) -> None:
    content = directory.content(keys["optimizer"])
    assert len(content) == 200
    tiny.check(tiny.write(path, patched(tiny.data, content[0], bytes(200))))


@pytest.mark.parametrize("entry", ["data.pkl", "kept"])
def test_wrong_crc(tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path, entry: str) -> None:
    position = directory.central(keys.get(entry, entry)) + 16
    refused(tiny.write(path, flipped(tiny.data, position)), r"file\.pth.*CRC-32")


def regions(directory: Directory, keys: dict[str, str]) -> dict[str, range]:
    kept, pickled = keys["kept"], "data.pkl"
    return {
        "local header of a tensor": range(directory.local(kept), directory.content(kept)[0]),
        "local header of the pickle": range(directory.local(pickled), directory.content(pickled)[0]),
        "central header of a tensor": range(directory.central(kept), directory.central(kept) + 80),
        "central header of the pickle": range(directory.central(pickled), directory.central(pickled) + 80),
        "end of the directory": range(directory.end - 76, directory.end + 22),
    }


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(data=st.data())
def test_flipped_bits_elsewhere_never_change_a_number(
    tiny: Tiny, directory: Directory, keys: dict[str, str], data: st.DataObject
) -> None:
    _, region = data.draw(st.sampled_from(list(regions(directory, keys).items())))
    position, bit = data.draw(st.sampled_from(region)), data.draw(st.integers(0, 7))
    path = tiny.write(tiny.folder / "flipped.pth", flipped(tiny.data, position, bit))
    right_or_refused(tiny, path)


def test_swapped_contents_are_found(tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path) -> None:
    one, other = directory.content(keys["kept"]), directory.content(keys["same size"])
    assert len(one) == len(other)
    swapped = patched(tiny.data, one[0], tiny.data[other[0] : other[-1] + 1])
    refused(tiny.write(path, swapped), "CRC-32")


@pytest.mark.parametrize("deleted", [1, 64, 5000])
def test_bytes_lost_in_the_middle(tiny: Tiny, directory: Directory, path: Path, deleted: int) -> None:
    position = directory.content("data.pkl")[1000]
    refused(tiny.write(path, tiny.data[:position] + tiny.data[position + deleted :]), r"file\.pth.*damaged")


@pytest.mark.parametrize("inserted", [1, 64, 5000])
def test_bytes_inserted_in_the_middle(tiny: Tiny, directory: Directory, path: Path, inserted: int) -> None:
    position = directory.content("data.pkl")[1000]
    changed = tiny.data[:position] + bytes(inserted) + tiny.data[position:]
    refused(tiny.write(path, changed), r"file\.pth.*damaged")


def test_garbled_entry_name(tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path) -> None:
    position = directory.central(keys["kept"]) + 46
    right_or_refused(tiny, tiny.write(path, patched(tiny.data, position, b"\xff\xfe")))  # of the folder around all
    refused(tiny.write(path, patched(tiny.data, position + len("tiny/"), b"\xff\xfe")), r"file\.pth")


@pytest.mark.parametrize("offset", [1, 2**31, 2**32 - 2])
@pytest.mark.parametrize("entry", ["data.pkl", "kept"])
def test_entry_that_is_elsewhere(
    tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path, entry: str, offset: int
) -> None:
    position = directory.central(keys.get(entry, entry)) + 42
    refused(tiny.write(path, patched(tiny.data, position, struct.pack("<I", offset))), r"file\.pth.*damaged")


@pytest.mark.parametrize("offset", [2**40, 2**63 - 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("entry", ["data.pkl", "kept"])
def test_entry_at_an_absurd_64_bit_offset(
    tiny: Tiny, keys: dict[str, str], path: Path, entry: str, offset: int
) -> None:
    def move(info: zipfile.ZipInfo, below: str) -> None:
        if below == keys.get(entry, entry):
            info.header_offset = offset

    rewrite(tiny, path, move)
    refused(path, r"file\.pth.*damaged")


def rewrite(tiny: Tiny, path: Path, change: Callable[[zipfile.ZipInfo, str], Any], **options: Any) -> None:
    """Write the file again, by Python's zipfile, with entries changed before the directory is written."""
    source = tiny.write(path.with_suffix(".old"))
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", **options) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
            change(new.infolist()[-1], info.filename.partition("/")[2])
    source.unlink()


def test_compressed(tiny: Tiny, path: Path) -> None:
    rewrite(tiny, path, lambda info, below: None, compression=zipfile.ZIP_DEFLATED)
    refused(path, "compressed")


@pytest.mark.parametrize("entry", ["data.pkl", "kept"])
def test_encrypted(tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path, entry: str) -> None:
    position = directory.central(keys.get(entry, entry)) + 8
    refused(tiny.write(path, flipped(tiny.data, position)), "encrypted")


@pytest.mark.parametrize("claimed", [0, 2**31, 2**32 - 2])
@pytest.mark.parametrize("entry", ["data.pkl", "kept"])
def test_entry_of_another_claimed_size(
    tiny: Tiny, directory: Directory, keys: dict[str, str], path: Path, entry: str, claimed: int
) -> None:
    position = directory.central(keys.get(entry, entry)) + 20
    changed = patched(tiny.data, position, struct.pack("<II", claimed, claimed))
    with memory_limit(32):
        refused(tiny.write(path, changed), r"file\.pth")


@pytest.mark.parametrize("entry", ["data.pkl", "kept", "version"])
@pytest.mark.parametrize("folder", ["tiny", "other"])
def test_duplicated_entry(tiny: Tiny, keys: dict[str, str], path: Path, entry: str, folder: str) -> None:
    name = keys.get(entry, entry)
    tiny.write(path)
    with zipfile.ZipFile(path, "a") as file:
        content = file.read(f"tiny/{name}")
        with pytest.warns(UserWarning, match="Duplicate") if folder == "tiny" else nullcontext():
            file.writestr(f"{folder}/{name}", content)
    refused(path, rf"two entries.*{name}")


def test_big_endian(tiny: Tiny, path: Path) -> None:
    edit_zip(tiny.write(path), {"byteorder": b"big"})
    refused(path, "big-endian")


def test_file_from_before_byteorder_was_written(tiny: Tiny, path: Path) -> None:
    edit_zip(tiny.write(path), {"byteorder": None, ".format_version": None, ".storage_alignment": None})
    tiny.check(path)


def test_no_pickle(tiny: Tiny, path: Path) -> None:
    edit_zip(tiny.write(path), {"data.pkl": None})
    refused(path, r"not a torch\.save file.*data\.pkl")


@pytest.mark.parametrize(
    "pickled", [b"", b".", b"\x80\x02", b"\x80\x02}", b"\x80\x99}.", b"garbage", bytes(100)], ids=str
)
def test_damaged_pickle_with_right_crc(tiny: Tiny, path: Path, pickled: bytes) -> None:
    refused(tiny.with_pickle(path, pickled), r"file\.pth.*damaged")


@pytest.mark.parametrize("change", [lambda old: old[:-4], lambda old: old + bytes(4), lambda old: b"", None])
def test_storage_of_wrong_size_is_named(
    tiny: Tiny, keys: dict[str, str], path: Path, change: Callable[[bytes], bytes] | None
) -> None:
    edit_zip(tiny.write(path), {keys["kept"]: change})
    size = 72 * 24 * 4
    refused(path, rf"storage {keys['kept'].removeprefix('data/')} should have {size} bytes")


def test_missing_optimizer_storage_does_not_matter(tiny: Tiny, keys: dict[str, str], path: Path) -> None:
    edit_zip(tiny.write(path), {keys["optimizer"]: None})
    tiny.check(path)


def mutated(tiny: Tiny, rng: random.Random, path: Path) -> bool:
    """Write a damaged file; return whether its pickle, and not only its bytes, is another one."""
    kind = rng.choice(["bytes", "directory", "cut", "insert", "delete", "zero", "move", "pickle", "pickle"])
    if kind == "pickle":
        pickled = bytearray(tiny.pickled)
        for _ in range(rng.choice([1, 1, 2, 8])):
            pickled[rng.randrange(len(pickled))] = rng.choice(
                [rng.randrange(256), ord(rng.choice("0().]}tRbsqrhjKJMX"))]
            )
        tiny.with_pickle(path, bytes(pickled))
        return True
    data = bytearray(tiny.data)
    position = rng.randrange(len(data))
    length = rng.choice([1, 2, 8, 64, 4096])
    directory = data.rindex(b"PK\x01\x02")  # somewhere in the central directory
    if kind == "bytes":
        for _ in range(length):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "directory":
        for _ in range(rng.choice([1, 2, 8])):
            data[rng.randrange(directory - 20_000, len(data))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    elif kind == "cut":
        del data[position:]
    elif kind == "insert":
        data[position:position] = rng.randbytes(length)
    elif kind == "delete":
        del data[position : position + length]
    elif kind == "zero":
        data[position : position + length] = bytes(length)
    elif kind == "move":
        other = rng.randrange(len(data))
        data[position : position + length] = data[other : other + length]
    path.write_bytes(data)
    return False


@pytest.mark.parametrize("seed", range(6))
def test_fifty_random_mutations(tiny: Tiny, path: Path, seed: int) -> None:
    rng = random.Random(seed)
    outcomes: list[type] = []
    for number in range(50):
        repickled = mutated(tiny, rng, path)
        with address_space(megabytes=1000):
            try:
                network = load_checkpoint(path)
            except CheckpointError as error:
                outcomes.append(type(error))
            except ConfigError as error:  # the pickled configuration was hit
                assert repickled, f"mutation {number}"
                outcomes.append(type(error))
            except Exception as error:
                raise AssertionError(f"mutation {number}: {error!r}") from error
            else:
                outcomes.append(MidwayNetwork)
                if not repickled:  # every number in the file has a checksum
                    assert_same_state(network.state_dict(), tiny.state)
    assert len(set(outcomes)) > 1, "both good and bad files are among them"
