"""The data set of flow training: numbers in, augmented crops out, bad files replaced."""

import torch
from torch.utils.data import Dataset

from midway_zoo.errors import DataError, InputError, MissingFileError
from midway_zoo.train.data.flow.augment import FlowAugment
from midway_zoo.train.data.flow.generated import GeneratedPairs
from midway_zoo.train.data.flow.mixture import FlowDataConfig, FlowStream, check_flow_data, list_mixture
from midway_zoo.train.data.flow.reading import read_sample
from midway_zoo.train.data.frame_pairs import MAX_ATTEMPTS
from midway_zoo.train.data.loading import Failure, Sample


def flow_pairs(config: FlowDataConfig, seed: int) -> Dataset[Sample]:
    """The training pairs that a configuration asks for: files or generated scenes.

    Raises:
        ConfigError: for values that make no sense.
        MissingFileError: if a folder or file is missing.
    """
    check_flow_data(config)
    augment = FlowAugment(config.augment, (config.crop[0], config.crop[1]))
    if config.source == "scenes":
        return GeneratedPairs(config.scenes, augment, seed)
    return FlowPairs(FlowStream(list_mixture(config), seed), augment)


class FlowPairs(Dataset[Sample]):
    """Augmented pair ``k`` of a run; it does not depend on workers or batches.

    Args:
        stream: of entries.
        augment: makes crops.
    """

    def __init__(self, stream: FlowStream, augment: FlowAugment) -> None:
        self.stream, self.augment = stream, augment

    def __getitem__(self, number: int) -> Sample:
        """``source`` and ``target``, uint8 (3, h, w); ``flow`` float32 (2, h, w) in pixels, NaN = invalid; ``index``,
        the number; and ``failures``, (path, reason) of what was tried in vain.

        Raises:
            DataError: if nothing can be read in ``MAX_ATTEMPTS`` attempts.
        """
        failures: list[Failure] = []
        for attempt in range(MAX_ATTEMPTS):
            draw = self.stream.replacement(number, attempt) if attempt else self.stream.draw(number)
            try:
                read = read_sample(draw.entry)
            except (InputError, MissingFileError) as error:
                failures.append((str(draw.entry.source), str(error)))
                continue
            made = self.augment(read, draw.entry.kind, self.stream.augment_rng(draw))
            return {**made.tensors(), "index": torch.tensor(number), "failures": failures}
        path, reason = failures[-1]
        raise DataError(
            f"no readable sample for pair {number} in {MAX_ATTEMPTS} attempts, the last in {path}: {reason} "
            "Is the data still there?"
        )
