"""Flow of listed pairs, file by file: what evaluation and submissions are made from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import midway_zoo
from midway_zoo.errors import InputError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.data.flow_augment import FlowSample
from midway_zoo.train.data.flow_files import FlowEntry
from midway_zoo.train.data.flow_pairs import read_sample

METHODS = ("auto", "head", "perturbation", "zero")
"""Those of :func:`midway_zoo.predict_flow`, and "zero", which says that nothing moves: the error of knowing nothing."""


class Entries(Protocol):
    """A sequence of pairs: :class:`FlowFiles`, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> FlowEntry: ...


def predictions(
    network: MidwayNetwork,
    entries: Entries,
    method: str,
    batch_size: int,
    num_workers: int,
    title: str,
    options: Mapping[str, Any],
    *,
    truth: bool,
) -> Iterator[tuple[int, FlowSample, Tensor, str]]:
    """Position, pair, predicted flow (2, H, W) and the method that was used, for each pair in order.

    Args:
        network: what predicts.
        entries: pairs.
        method: one of :data:`METHODS`.
        batch_size: pairs, or tiles, at once.
        num_workers: processes that read files ahead; 0 reads in this one.
        title: what the progress bar and messages call the pairs.
        options: for :func:`midway_zoo.predict_flow`.
        truth: read flow and occlusion too; a pair without flow is an error then.

    Raises:
        InputError: for arguments that cannot be used or files that cannot be read.
        MissingFileError: if a file is gone.
    """
    if method not in METHODS:
        raise InputError(f"method={method!r}: one of {', '.join(METHODS)} is expected.")
    if len(entries) == 0:
        raise InputError(f"{title or 'entries'}: there is no pair to evaluate.")
    reader = _Reader(entries, truth=truth)
    loader = DataLoader(reader, batch_size=batch_size, collate_fn=list, num_workers=num_workers)
    index = 0
    with tqdm(total=len(entries), unit=" pairs", desc=title or None, leave=False, disable=None) as bar:
        for samples in loader:
            flows, used = _predict(network, samples, method, batch_size, options)
            for sample, flow in zip(samples, flows, strict=True):
                yield index, sample, flow, used
                index += 1
            bar.update(len(samples))


def _predict(
    network: MidwayNetwork, samples: Sequence[FlowSample], method: str, batch_size: int, options: Mapping[str, Any]
) -> tuple[Iterable[Tensor], str]:
    if method == "zero":
        return [torch.zeros(2, *sample.source.shape[1:]) for sample in samples], method
    sources, targets = [sample.source for sample in samples], [sample.target for sample in samples]
    found = midway_zoo.predict_flow(network, sources, targets, method=method, batch_size=batch_size, **options)  # type: ignore[arg-type]
    return found.flow, found.method


class _Reader(Dataset[FlowSample]):
    """Pairs as they are on disk; ``truth``: with flow and, where there is one, the occlusion."""

    def __init__(self, entries: Entries, *, truth: bool) -> None:
        self.entries, self.truth = entries, truth

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> FlowSample:
        entry = self.entries[index]
        sample = read_sample(entry, occlusion=self.truth)
        if self.truth and sample.flow is None:
            raise InputError(f"{entry.name}: its flow is not published; write_submission makes files for the server.")
        return sample
