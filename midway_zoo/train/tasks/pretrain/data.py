"""Where a pretraining run's batches come from: videos or rendered scenes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.state import PartialState, is_initialized

from midway_zoo.train.data.frame_pairs import PairDataset, pair_stream
from midway_zoo.train.data.loading import StepBatches, collate, make_loader
from midway_zoo.train.data.nvdec import DeviceReader, check_decoder
from midway_zoo.train.data.scene_pairs import MixedViews, SceneViews, scene_batches, scenes_fingerprint
from midway_zoo.train.data.shared_memory import bytes_per_pair, check_shared_memory
from midway_zoo.train.data.video_index import INDEX_NAME, load_or_build_index
from midway_zoo.train.data.views import ViewSampler
from midway_zoo.train.tasks.pretrain.config import PretrainConfig


class PairSource(Protocol):
    """Batches of views, by step."""

    pairs_per_epoch: int | None
    """None if the source is endless."""
    fingerprint: str
    """Identifies the data; it must be the same when a run is resumed."""

    def batches(self, steps: StepBatches, device: torch.device) -> Iterable[Any]:
        """What :func:`~midway_zoo.train.tasks.pretrain.model.normalised_views` takes, with "index" and "failures"."""
        ...


def pair_source(config: PretrainConfig) -> PairSource:
    """The source that ``data.source`` names."""
    if config.data.source == "videos":
        return Videos(config)
    return Mixture(config) if config.data.mixture else Scenes(config)


class Videos:
    """Pairs of frames of files."""

    def __init__(self, config: PretrainConfig) -> None:
        assert config.data.root is not None  # checked with the configuration
        # One process checks for changed files before the others start: 70,000 calls in each would be slow.
        first = not is_initialized() or PartialState().is_main_process
        index = load_or_build_index(config.data.root, _index_file(config), refresh=first)
        if config.data.decoder == "nvdec":
            check_decoder(index.base)
        self.config = config
        self.fingerprint = index.fingerprint
        self.stream = pair_stream(index, config.data, config.seed)
        self.pairs_per_epoch: int | None = self.stream.pairs_per_epoch

    def batches(self, steps: StepBatches, device: torch.device) -> Iterable[Any]:
        """Batches decoded (by the device, depending on ``data.decoder``) and cut by the workers."""
        views, on_device = ViewSampler(self.config.views), self.config.data.decoder == "nvdec"
        read = DeviceReader(str(device)) if on_device else None
        dataset = PairDataset(self.stream, views, short_side=self.config.data.decode_short_side, read=read)
        share = self.config.batch_size // steps.world
        check_shared_memory(share * bytes_per_pair(self.config.views), self.config.num_workers)
        return make_loader(dataset, steps, collate, num_workers=self.config.num_workers, spawn=on_device)


class Scenes:
    """Pairs of rendered frames."""

    pairs_per_epoch: int | None = None

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.fingerprint = f"scenes {scenes_fingerprint(config.data.scenes)}"
        SceneViews(config.data.scenes, config.views, config.seed)  # refuse unusable scenes before training

    def batches(self, steps: StepBatches, device: torch.device) -> Iterable[Any]:
        """Batches rendered and cut on ``device``, or by the workers if that is the CPU."""
        config = self.config
        dataset = SceneViews(config.data.scenes, config.views, config.seed, device)
        return scene_batches(dataset, steps, num_workers=config.num_workers)


class Mixture:
    """Rendered pairs, a share of which is replaced by pairs from videos."""

    pairs_per_epoch: int | None = None

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.videos, scenes = Videos(config), Scenes(config)
        self.fingerprint = f"{scenes.fingerprint} {config.data.mixture} {self.videos.fingerprint}"

    def batches(self, steps: StepBatches, device: torch.device) -> Iterable[Any]:
        """Batches decoded or rendered, and cut, by the workers."""
        config = self.config
        views = ViewSampler(config.views)
        videos = PairDataset(self.videos.stream, views, short_side=config.data.decode_short_side)
        scenes = SceneViews(config.data.scenes, config.views, config.seed)
        return scene_batches(
            MixedViews(scenes, videos, config.data.mixture, config.seed), steps, num_workers=config.num_workers
        )


def _index_file(config: PretrainConfig) -> Path | None:
    """The index given in the configuration, or one in the run folder, where earlier releases kept it for read-only
    data; None for the usual place."""
    if config.data.index is not None:
        return Path(config.data.index)
    earlier = Path(config.out) / INDEX_NAME
    return earlier if earlier.is_file() else None
