"""Run a file of `midway-zoo export` with onnxruntime, NumPy and Pillow alone: neither torch nor midway-zoo.

    midway-zoo export midway_nano --part encoder -o encoder.onnx
    python examples/onnx_inference.py encoder.onnx IMAGE
    midway-zoo export midway_nano --part motion -o motion.onnx
    python examples/onnx_inference.py motion.onnx IMAGE IMAGE
    midway-zoo export midway_nano --part stream -o stream.onnx
    python examples/onnx_inference.py stream.onnx FOLDER

The file says itself which part it is and how images go in. A folder is a stream: its frames in the order of their
names, each encoded once. A part "flow" takes two images as well.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def open_model(path: str, providers: list[str]) -> tuple[onnxruntime.InferenceSession, dict]:
    """The session, and what the file says of itself."""
    session = onnxruntime.InferenceSession(path, providers=providers)
    return session, json.loads(session.get_modelmeta().custom_metadata_map["midway_zoo"])


def read(path: Path, facts: dict) -> np.ndarray:
    """An image as the model takes it: float32 (1, 3, H, W), RGB, in [0, 1], upright, of the model's size."""
    height, width = facts["preprocessing"]["size"]
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
        pixels = np.asarray(upright.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None] / np.float32(255))


def run(session: onnxruntime.InferenceSession, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def stream(session: onnxruntime.InferenceSession, facts: dict, frames: list[Path]) -> Iterator[dict[str, np.ndarray]]:
    """The motion from each frame to the next. What a frame leaves for the next one is in ``state``."""
    state = np.zeros((1, *facts["state"]), dtype=np.float32)
    for index, path in enumerate(frames):
        found = run(session, images=read(path, facts), previous=state)
        state = found.pop("state")
        if index:  # the first frame has no predecessor
            yield found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("--providers", nargs="+", default=["CPUExecutionProvider"], help="of onnxruntime, best first")
    options = parser.parse_args(arguments)
    session, facts = open_model(options.model, options.providers)
    print(f"{facts['model']}, {facts['part']}, {facts['dtype']}, weights {facts['weights_sha256'][:12]}")
    if facts["part"] == "stream":
        frames = sorted(
            path for path in options.inputs[0].iterdir() if path.suffix.lower() in (".png", ".jpg", ".jpeg")
        )
        for path, found in zip(frames[1:], stream(session, facts, frames), strict=True):
            print(f"{path.name}  length {np.linalg.norm(found['pooled']):.4f}")
        return
    if len(options.inputs) != len(facts["inputs"]):
        parser.error(f"{facts['part']} takes {len(facts['inputs'])} image(s): {', '.join(facts['inputs'])}")
    images = [read(path, facts) for path in options.inputs]
    for name, value in run(session, **dict(zip(facts["inputs"], images, strict=True))).items():
        print(f"{name}  {value.shape}  mean {value.mean():.4f}  standard deviation {value.std():.4f}")


if __name__ == "__main__":
    main()
