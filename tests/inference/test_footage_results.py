"""Results of footage that is damaged or irregular: what they say of it."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch

import midway_zoo as mz
from midway_zoo.cli import main
from midway_zoo.inference.video import read_video
from tests.inference.footage import damage_packet, grey, write


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Twelve frames, of which 3 to 5 are concealed."""
    path = write(tmp_path / "damaged.mp4", [grey(k, noise=True) for k in range(12)], gop=6)
    damage_packet(path, 3)
    return path


def test_results_say_which_frames_were_concealed(
    damaged: Path, nano: mz.MidwayNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = torch.tensor([3 <= k <= 5 for k in range(12)])
    expected = torch.stack([hidden[:-1], hidden[1:]], dim=1)
    assert torch.equal(mz.infer_motion_latents(nano, damaged, batch_size=5).concealed, expected)
    assert len([record for record in caplog.records if "damaged at 0.15 s: 3 frames" in record.getMessage()]) == 1
    flows = list(mz.predict_flows(nano, damaged, size=32))
    assert torch.equal(torch.cat([flow.concealed for flow in flows]), expected)


def test_frames_without_a_file_say_nothing(nano: mz.MidwayNetwork) -> None:
    assert mz.infer_motion_latents(nano, torch.rand(3, 3, 32, 32)).concealed is None


def test_frames_of_the_reader_are_a_clip(damaged: Path, nano: mz.MidwayNetwork) -> None:
    given = mz.infer_motion_latents(nano, mz.read_video(damaged))
    expected = mz.infer_motion_latents(nano, damaged)
    assert torch.equal(given.tokens, expected.tokens)
    assert torch.equal(given.concealed, expected.concealed)


def test_a_flow_video_lasts_as_long_as_its_source(tmp_path: Path) -> None:
    """The first two frames are much closer than the others."""
    times = [0, 10, 500, 900, 1000, 2400]
    path = write(tmp_path / "vfr.mp4", [grey(k, noise=True) for k in range(6)], milliseconds=times)
    out = tmp_path / "flow.mp4"
    model = next(name for name in mz.list_models(pretrained=True) if "nano" in name)
    assert main(["flow", model, str(path), "-o", str(out), "--size", "64", "--method", "perturbation"]) == 0
    found = [frame.pts_seconds for frame in read_video(out)]
    np.testing.assert_allclose(found, np.array(times[:-1]) / 1000, atol=1e-3)
    with av.open(str(out)) as file:
        stream = file.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(2.4 + 1.4, abs=0.01)
