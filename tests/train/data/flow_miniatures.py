"""Data sets of a few small images in the folders and formats of the real ones, written without the package's help."""

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SIZE = (12, 16)
"""(height, width) of the images."""


@dataclass
class Miniature:
    """A data set's folder and what was written: arrays (H, W, channels) by path below it."""

    root: Path
    content: dict[str, Any] = field(default_factory=dict)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    def path(self, relative: str) -> Path:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def image(self, relative: str) -> None:
        pixels = self.rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        self.content[relative] = pixels
        if relative.endswith(".ppm"):
            self.path(relative).write_bytes(b"P6\n%d %d\n255\n" % SIZE[::-1] + pixels.tobytes())
        else:
            self.path(relative).write_bytes(png(pixels))

    def mask(self, relative: str, marked: tuple[int, int]) -> None:
        pixels = np.zeros(SIZE, np.uint8)
        pixels[marked] = 255
        self.path(relative).write_bytes(png(pixels[:, :, None]))

    def flow(self, relative: str, **changes: Any) -> None:
        """Random vectors; ``changes`` by suffix: ``invalid=(row, column)``."""
        flow = self.rng.uniform(-9, 9, (*SIZE, 2)).astype(np.float32)
        invalid = changes.get("invalid")
        suffix = Path(relative).suffix
        if suffix == ".flo":
            data = flow.copy()
            if invalid:
                data[invalid] = 1.7e9
            payload = b"PIEH" + struct.pack("<ii", SIZE[1], SIZE[0]) + data.tobytes()
        elif suffix == ".pfm":
            data = np.concatenate([flow, np.zeros((*SIZE, 1), np.float32)], axis=2)
            if invalid:
                data[invalid] = np.nan
            payload = b"PF\n%d %d\n-1.0\n" % SIZE[::-1] + data[::-1].tobytes()
        elif suffix == ".png":
            flow = np.round(flow * 64) / 64
            valid = np.ones(SIZE, bool)
            if invalid:
                valid[invalid] = False
            steps = np.where(valid[:, :, None], flow * 64 + 2**15, 0)
            payload = png(np.concatenate([steps, valid[:, :, None]], axis=2).astype(np.uint16))
        else:
            raise ValueError(relative)
        self.path(relative).write_bytes(payload)
        if invalid:
            flow[invalid] = np.nan
        self.content[relative] = flow


def png(pixels: Any) -> bytes:
    """(H, W, 1 or 3), 8 or 16 bits, without row filters."""
    height, width, channels = pixels.shape
    depth = pixels.dtype.itemsize * 8
    raw = pixels.astype(">u2" if depth == 16 else "u1").tobytes()
    line = len(raw) // height
    rows = b"".join(b"\0" + raw[row * line : (row + 1) * line] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, {1: 0, 3: 2}[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def flying_chairs(root: Path, marks: str = "1121") -> Miniature:
    made = Miniature(root)
    for number in range(1, len(marks) + 1):
        made.image(f"data/{number:05d}_img1.ppm")
        made.image(f"data/{number:05d}_img2.ppm")
        made.flow(f"data/{number:05d}_flow.flo")
    (root / "FlyingChairs_train_val.txt").write_text("\n".join(marks) + "\n")
    return made


def flying_things(root: Path) -> Miniature:
    made = Miniature(root)
    for split, letter, scene in (("TRAIN", "B", "0001"), ("TRAIN", "A", "0000"), ("TEST", "A", "0002")):
        for frame in ("0007", "0006", "0008"):  # not in order: neither are real folders
            for name in ("clean", "final"):
                made.image(f"frames_{name}pass/{split}/{letter}/{scene}/left/{frame}.png")
            for into, end in (("future", "Future"), ("past", "Past")):
                flow = f"optical_flow/{split}/{letter}/{scene}/into_{into}/left/OpticalFlowInto{end}_{frame}_L.pfm"
                made.flow(flow, invalid=(2, 3))
    return made


def sintel(root: Path, frames: int = 3) -> Miniature:
    made = Miniature(root)
    for sequence in ("temple_2", "alley_1", "temple_3", "bandage_2"):
        for frame in range(1, frames + 1):
            for name in ("clean", "final"):
                made.image(f"training/{name}/{sequence}/frame_{frame:04d}.png")
            if frame < frames:
                made.flow(f"training/flow/{sequence}/frame_{frame:04d}.flo")
                made.mask(f"training/invalid/{sequence}/frame_{frame:04d}.png", (1, 1))
                made.mask(f"training/occlusions/{sequence}/frame_{frame:04d}.png", (4, 5))
    for name in ("clean", "final"):
        for frame in (1, 2, 3):
            made.image(f"test/{name}/ambush_1/frame_{frame:04d}.png")
    return made


def kitti(root: Path, images: str) -> Miniature:
    made = Miniature(root)
    for scene in ("000001", "000000"):
        for frame in ("10", "11"):
            made.image(f"training/{images}/{scene}_{frame}.png")
            made.image(f"testing/{images}/{scene}_{frame}.png")
        made.flow(f"training/flow_occ/{scene}_10.png", invalid=(0, 7))
        made.flow(f"training/flow_noc/{scene}_10.png", invalid=(5, 6))
    return made


def hd1k(root: Path) -> Miniature:
    made = Miniature(root)
    for sequence, count in (("000000", 3), ("000001", 2)):
        for frame in range(count):
            made.image(f"hd1k_input/image_2/{sequence}_{frame:04d}.png")
            made.flow(f"hd1k_flow_gt/flow_occ/{sequence}_{frame:04d}.png", invalid=(3, 3))
    for frame in ("10", "11"):
        made.image(f"hd1k_challenge/image_2/000000_{frame}.png")
    return made


def tartanair(root: Path) -> Miniature:
    made = Miniature(root)
    for top in ("ocean/ocean/Easy/P000", "ocean/ocean/Hard/P001", "office/Easy/P003"):
        for frame in range(3):
            made.image(f"{top}/image_left/{frame:06d}_left.png")
        for frame in range(2):
            flow = made.rng.uniform(-9, 9, (*SIZE, 2)).astype(np.float32)
            mask = np.zeros(SIZE, np.uint8)
            mask[0, :4] = 1, 10, 100, 200  # occluded by others, by itself, out of the picture, cut off
            path = f"{top}/flow/{frame:06d}_{frame + 1:06d}_"
            np.save(made.path(f"{path}flow.npy"), flow)
            np.save(made.path(f"{path}mask.npy"), mask)
            flow[0, 3] = np.nan
            made.content[f"{path}flow.npy"] = flow
    return made


def spring(root: Path) -> Miniature:
    made = Miniature(root)
    for frame in (1, 2, 3):
        made.image(f"train/0001/frame_left/frame_left_{frame:04d}.png")
        made.image(f"test/0003/frame_left/frame_left_{frame:04d}.png")
        for name in ("FW", "BW"):
            if (name, frame) in (("FW", 3), ("BW", 1)):
                continue
            flow = made.rng.uniform(-9, 9, (2 * SIZE[0], 2 * SIZE[1], 2)).astype(np.float32)
            flow[4, 6], flow[1, 1] = np.nan, np.nan
            relative = f"train/0001/flow_{name}_left/flow_{name}_left_{frame:04d}.flo5"
            with h5py.File(made.path(relative), "w") as file:
                file.create_dataset("flow", data=flow, compression="gzip", compression_opts=5)
            made.content[relative] = flow[::2, ::2]
    return made
