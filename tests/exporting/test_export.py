"""Exported files do what the network does, say what they are, and never replace anything unasked."""

import io
import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

import midway_zoo as mz
from midway_zoo.errors import ConfigError, ExportError, InputError, MissingExtraError, OutputExistsError
from midway_zoo.exporting import checking, files
from midway_zoo.storage import state_digest


def ran(path: Path, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        values = session.run(names, {name: value.numpy() for name, value in inputs.items()})
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}
    module: Any = torch.export.load(path).module() if path.suffix == ".pt2" else torch.jit.load(path)
    with torch.no_grad():
        return dict(module(**inputs))


def pictures(*shape: int) -> torch.Tensor:
    return torch.rand(*shape[:1], 3, *shape[1:], generator=torch.Generator().manual_seed(len(shape)))


def assert_features(path: Path, network: mz.MidwayNetwork, images: torch.Tensor) -> None:
    wanted = mz.extract_features(network, images, blocks=(0, 1, 2, 3), size="full")
    found = ran(path, images=images)
    assert list(found) == ["cls", "block0", "block1", "block2", "block3"]
    torch.testing.assert_close(found["cls"], wanted.cls, atol=1e-3, rtol=0)
    for block, value in wanted.maps.items():
        torch.testing.assert_close(found[f"block{block}"], value, atol=1e-3, rtol=0)


def assert_motion(path: Path, network: mz.MidwayNetwork, source: torch.Tensor, target: torch.Tensor) -> None:
    wanted = mz.infer_motion_latent(network, source, target, size="full")
    found = ran(path, source=source, target=target)
    assert found.keys() == {"tokens", "level2", "pooled"}
    for name, value in (("tokens", wanted.tokens), ("level2", wanted.levels[2]), ("pooled", wanted.pooled)):
        torch.testing.assert_close(found[name], value, atol=1e-3, rtol=0)


def test_encoder_as_onnx(encoder_file: Path, tiny: mz.MidwayNetwork) -> None:
    assert_features(encoder_file, tiny, pictures(1, 32, 48))


def test_what_a_file_says_of_itself(encoder_file: Path, tiny: mz.MidwayNetwork) -> None:
    model = onnx.load(encoder_file)
    onnx.checker.check_model(model)
    facts = json.loads({entry.key: entry.value for entry in model.metadata_props}["midway_zoo"])
    assert [entry.version for entry in model.opset_import if not entry.domain] == [18] == [facts["opset"]]
    assert facts["weights_sha256"] == state_digest(tiny)
    assert facts["model"] == "midway_nano"
    assert facts["midway_zoo"] == mz.__version__
    assert facts["license"] is None  # of weights that nobody published
    seen = facts["preprocessing"]
    assert (seen["color_order"], seen["range"], seen["size"]) == ("RGB", [0.0, 1.0], [32, 48])
    assert (tuple(seen["mean"]), tuple(seen["std"])) == (
        tiny.encoder.pretrained_cfg["mean"],
        tiny.encoder.pretrained_cfg["std"],
    )
    assert str(Path(__file__).parents[2]).encode() not in encoder_file.read_bytes()  # of this machine


def test_a_stream_is_the_motion_from_frame_to_frame(stream_file: Path, tiny: mz.MidwayNetwork) -> None:
    clip, stream = pictures(4, 32, 32), mz.MotionStream(tiny)
    state = torch.zeros(1, 4, 17, 24)
    for index, frame in enumerate(clip):
        found, wanted = ran(stream_file, images=frame[None], previous=state), stream.push(frame)
        state = found["state"]
        if index:
            assert isinstance(wanted, mz.MotionLatent)
            torch.testing.assert_close(found["tokens"], wanted.tokens, atol=1e-3, rtol=0)
            torch.testing.assert_close(found["pooled"], wanted.pooled, atol=1e-3, rtol=0)


def test_motion_as_pt2_of_any_batch(tiny: mz.MidwayNetwork, tmp_path: Path) -> None:
    path = tmp_path / "motion.pt2"
    result = mz.export(tiny, path, part="motion", dynamic=("batch",))
    assert result.difference is not None
    assert result.difference < 1e-4
    for count in (1, 3):
        assert_motion(path, tiny, pictures(count, 32, 32), pictures(count, 32, 32).flip(3))
    extra = {"midway_zoo.json": ""}
    torch.export.load(io.BytesIO(path.read_bytes()), extra_files=extra)
    assert json.loads(extra["midway_zoo.json"])["part"] == "motion"


def test_motion_as_torchscript_of_two_sizes(tiny: mz.MidwayNetwork, tmp_path: Path) -> None:
    path = tmp_path / "motion.ts"
    mz.export(tiny, path, part="motion", dynamic=("batch", "size"))
    for count, height, width in ((1, 32, 32), (2, 48, 24), (3, 16, 64)):
        assert_motion(path, tiny, pictures(count, height, width), pictures(count, height, width).flip(2))
    extra = {"midway_zoo.json": ""}
    torch.jit.load(path, _extra_files=extra)
    assert json.loads(extra["midway_zoo.json"])["part"] == "motion"


def test_flow_is_the_head_on_the_whole_image(tiny: mz.MidwayNetwork, tmp_path: Path) -> None:
    path = tmp_path / "flow.ts"
    result = mz.export(tiny, path, part="flow")
    assert result.size == (32, 48)
    source, target = pictures(1, 32, 48), pictures(1, 32, 48).flip(3)
    wanted, found = mz.predict_flow(tiny, source, target), ran(path, source=source, target=target)
    torch.testing.assert_close(found["flow"], wanted.flow, atol=1e-3, rtol=0)
    torch.testing.assert_close(found["confidence"], wanted.confidence, atol=1e-3, rtol=0)


def test_both_encoders_of_a_paired_network(tmp_path: Path) -> None:
    network = mz.create_model("midway_nano", paired=True, depth=4, feature_blocks=(0, 1, 2, 3), levels=(2,))
    with torch.no_grad():
        network.target_encoder.pos_embed.add_(0.1)
    for part in ("motion", "stream"):
        result = mz.export(network, tmp_path / f"{part}.ts", part=part)
        assert result.difference is not None  # it was compared with the network


def test_a_file_holds_no_more_than_its_part(tmp_path: Path) -> None:
    """Every parameter decides something that comes out, so that none is carried along for nothing."""
    network = mz.create_model("midway_nano", depth=4, feature_blocks=(0, 1, 2, 3), levels=(2, 0), flow_head=True)
    held: dict[str, set[str]] = {}
    for part in ("encoder", "motion", "network", "flow"):
        mz.export(network, tmp_path / f"{part}.ts", part=part, size=16, check=False)
        held[part] = {name for name, _ in torch.jit.load(tmp_path / f"{part}.ts").named_parameters()}
    assert {name.split(".")[1] for name in held["encoder"]} == {"encoder"}
    assert {name.split(".")[1] for name in held["network"]} == {"encoder", "dynamics"}
    assert {name.split(".")[1] for name in held["flow"]} == {"encoder", "dynamics", "flow_head"}
    left_out = {name.removeprefix("network.dynamics.") for name in held["network"] - held["motion"]}
    layers = {".".join(name.split(".")[:2]) for name in left_out}
    assert layers == {"forward_dynamics.0", "source_backward.0", "target_backward.0"}


def test_weights_and_mode_of_the_network_are_left_alone(tiny: mz.MidwayNetwork, tmp_path: Path) -> None:
    digest = state_digest(tiny)
    tiny.train()
    mz.export(tiny, tmp_path / "a.ts", dtype="fp16")
    assert tiny.training
    tiny.eval()
    assert (state_digest(tiny), tiny.dtype) == (digest, torch.float32)


def test_half_precision_keeps_floats_outside(tiny: mz.MidwayNetwork, tmp_path: Path) -> None:
    whole = mz.export(tiny, tmp_path / "a.ts", check=False)
    half = mz.export(tiny, tmp_path / "b.ts", dtype="fp16")
    assert half.size_bytes < whole.size_bytes
    assert whole.difference is None
    assert half.cosine is not None
    assert half.cosine > 0.999
    assert all(value.dtype == torch.float32 for value in ran(tmp_path / "b.ts", images=pictures(1, 32, 32)).values())


def test_int8_is_smaller_and_measured(encoder_file: Path, tiny: mz.MidwayNetwork, tmp_path: Path) -> None:
    images = list(pictures(3, 32, 48))
    result = mz.export(tiny, tmp_path / "a.onnx", dtype="int8", size=(32, 48), images=images)
    assert result.cosine is not None
    assert 0.99 <= result.cosine < 1
    assert any(name.endswith("_quantized") for name in whole_numbers(tmp_path / "a.onnx"))


def whole_numbers(path: Path) -> dict[str, onnx.TensorProto]:
    model = onnx.load(path)
    return {entry.name: entry for entry in model.graph.initializer if entry.data_type == onnx.TensorProto.INT8}


def test_int8_does_not_overflow_on_cpus_without_vnni(tiny: mz.MidwayNetwork, tmp_path: Path) -> None:
    """They add products of two pairs of an activation up to 255 and a weight in 16 bits; more is cut off."""
    mz.export(tiny, tmp_path / "a.onnx", dtype="int8", size=(32, 48))
    weights = [onnx.numpy_helper.to_array(entry).astype(int) for entry in whole_numbers(tmp_path / "a.onnx").values()]
    largest = max(abs(weight).max() for weight in weights)
    assert largest > 60
    assert 2 * 255 * largest < 2**15


def test_a_file_that_does_something_else_is_not_kept(
    tiny: mz.MidwayNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = files.runner

    def wrong(*arguments: Any) -> files.Runner:
        run = real(*arguments)
        return lambda given: {name: value + 0.01 for name, value in run(given).items()}

    monkeypatch.setattr(files, "runner", wrong)
    with pytest.raises(ExportError, match=r"differs from the network by 0\.0"):
        mz.export(tiny, tmp_path / "a.ts")
    monkeypatch.setitem(checking.COSINE, "fp16", 1.1)
    monkeypatch.setattr(files, "runner", real)
    with pytest.raises(ExportError, match=r"cosine of \w+ with the network's float32 is [01]\.\d+, at least 1.1 is"):
        mz.export(tiny, tmp_path / "a.ts", dtype="fp16")
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced_unasked(tiny: mz.MidwayNetwork, tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    path.write_text("mine")
    with pytest.raises(OutputExistsError, match="--force"):
        mz.export(tiny, path)
    assert path.read_text() == "mine"
    mz.export(tiny, path, overwrite=True)
    assert ran(path, images=pictures(1, 32, 32))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a.bin", {}, "end in one of .onnx"),
        ("a.onnx", {"format": "pt2"}, "pt2 is written to .pt2"),
        ("a.onnx", {"part": "encodr"}, "Did you mean 'encoder'"),
        ("a.ts", {"dtype": "int8"}, "int8' is for onnx"),
        ("a.ts", {"dynamic": ("width",)}, "one of batch, size"),
        ("a.ts", {"size": 30}, r"nearest that does is \(32, 32\)"),
        ("a.ts", {"blocks": (9,)}, "from 0 to 3"),
        ("a.ts", {"part": "motion", "blocks": (1,)}, "outputs of its own"),
    ],
)
def test_requests_that_make_no_sense(
    tiny: mz.MidwayNetwork, tmp_path: Path, name: str, options: Any, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        mz.export(tiny, tmp_path / name, **options)


def test_parts_that_a_network_does_not_have(tmp_path: Path) -> None:
    network = mz.create_model("midway_nano", depth=4, feature_blocks=(0, 1, 2, 3))
    with pytest.raises(ConfigError, match="no flow head"):
        mz.export(network, tmp_path / "a.ts", part="flow")
    alone = mz.create_model("midway_nano", depth=4, feature_blocks=(0, 1, 2, 3), dynamics=False)
    with pytest.raises(ConfigError, match="encoder alone"):
        mz.export(alone, tmp_path / "a.ts", part="motion")


def test_a_missing_extra_says_how_to_get_it(
    tiny: mz.MidwayNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[onnx\]"):
        mz.export(tiny, tmp_path / "a.onnx")


def test_torch_export_takes_whole_networks(tiny: mz.MidwayNetwork) -> None:
    pair = (torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32))
    file = io.BytesIO()
    torch.export.save(torch.export.export(tiny, pair, strict=False), file)
    file.seek(0)
    found, wanted = torch.export.load(file).module()(*pair), tiny(*pair)
    assert isinstance(found, mz.DynamicsOutput)
    torch.testing.assert_close(found.predictions, wanted.predictions)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["encoder", "motion", "flow", "stream", "network"])
@pytest.mark.parametrize("ending", ["onnx", "pt2", "ts"])
def test_every_part_in_every_format_of_any_batch_and_size(
    tiny: mz.MidwayNetwork, tmp_path: Path, part: Any, ending: str
) -> None:
    path = tmp_path / f"a.{ending}"
    result = mz.export(tiny, path, part=part, dynamic=("batch", "size"))
    assert result.difference is not None
    assert result.difference < 1e-3
    if part == "encoder":
        for shape in ((1, 32, 32), (3, 16, 40)):
            assert_features(path, tiny, pictures(*shape))
    if part == "motion":
        assert_motion(path, tiny, pictures(3, 48, 24), pictures(3, 48, 24).flip(2))
