"""Evaluation of flow on the published data sets: metrics, and submissions for benchmark servers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from midway_zoo.bars import bar
from midway_zoo.errors import ConfigError, InputError
from midway_zoo.files import check_output, make_folder
from midway_zoo.flow import FlowMetrics, write_flow
from midway_zoo.inference.flow import predict_flow
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.data.flow_augment import FlowSample
from midway_zoo.train.data.flow_datasets import DATASETS, FORMS, dataset_key, list_part
from midway_zoo.train.data.flow_files import FlowEntry, FlowFiles
from midway_zoo.train.data.flow_pairs import read_sample

METHODS = ("auto", "head", "perturbation", "zero")
"""The methods of :func:`midway_zoo.predict_flow`, and "zero", which predicts no motion, as a baseline."""
_KITTI_LIMIT = 511.984375  # (2^16 - 1 - 2^15) / 64, the largest component that the format holds

_COLUMNS = {
    "epe": "EPE",
    "epe_per_image": "EPE/img",
    "px1": "1px %",
    "px3": "3px %",
    "px5": "5px %",
    "fl_all": "Fl-all %",
    "s0_10": "s0-10",
    "s10_40": "s10-40",
    "s40_plus": "s40+",
    "epe_noc": "EPE-noc",
    "epe_occ": "EPE-occ",
}


class Entries(Protocol):
    """A sequence of pairs: :class:`FlowFiles`, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> FlowEntry: ...


def evaluation_files(
    dataset: str, root: str | Path, *, split: str | None = None, passes: Sequence[str] = ("clean", "final")
) -> dict[str, FlowFiles]:
    """What a data set is evaluated on, by part.

    Args:
        dataset: a key of :data:`~midway_zoo.train.data.flow_datasets.DATASETS`, or one of its short names ("things");
            hyphens may replace underscores.
        root: its folder, or the folder that contains it under its usual name.
        split: which pairs; by default those that fine-tuning leaves out: Sintel's "subval", "test" of FlyingThings,
            "val" of FlyingChairs; elsewhere "train", whose flow is published. A split without flow is for
            :func:`write_submission`.
        passes: rendering passes of Sintel and FlyingThings.

    Raises:
        ConfigError: for an unknown data set, split or pass.
        MissingFileError: if a folder or file is missing.
    """
    key = dataset_key(dataset)
    data = DATASETS[key]
    split = split or data.evaluated
    names = [f"{key}_{name}_{split}" for name in passes] if data.passes else [f"{key}_{split}"]
    usual = any((Path(root) / name).is_dir() for name in data.folders)
    return {name: list_part(name, root, None if usual else {key: str(root)}) for name in names}


def evaluate_flow(
    network: MidwayNetwork,
    entries: Entries,
    *,
    title: str = "",
    method: str = "auto",
    tile: int | tuple[int, int] | None = None,
    overlap: float = 0.9,
    batch_size: int = 4,
    max_flow: float | None = None,
    num_workers: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """Compare the flow of a network with the ground truth.

    Args:
        network: with a flow head for "head"; any for "perturbation" (zero-shot, section 4.4).
        entries: pairs with flow.
        title: name of the pairs in results and messages.
        method: one of :data:`METHODS`.
        tile: for the head, as in :func:`midway_zoo.predict_flow`.
        overlap: overlap of tiles; the protocol uses 0.7 for validation and 0.9 for test.
        batch_size: pairs or tiles per forward pass.
        max_flow: ignore longer vectors, in pixels; see :class:`~midway_zoo.flow.FlowMetrics`.
        num_workers: processes that read files ahead; 0 reads in this one.
        **options: for :func:`midway_zoo.predict_flow` (size, coarse, level, draws, seed, window).

    Returns:
        JSON types: ``data`` (the title), ``pairs``, ``method`` (the one that was used), ``settings``, and ``metrics``
        with the names of :class:`~midway_zoo.flow.FlowMetrics`: pooled over pixels, and with ``_per_image`` averaged
        over images. Sintel and FlyingThings publish ``epe``, KITTI ``epe_per_image`` and ``fl_all``. A figure
        is None if no pixel counts for it.

    Raises:
        InputError: for arguments that cannot be used, files that cannot be read, pairs without flow, or a prediction
            that is not finite.
        MissingFileError: if a file is gone.
    """
    metrics = FlowMetrics(max_flow=max_flow)
    settings: dict[str, Any] = {**options}
    settings |= {} if method == "zero" else {"tile": tile, "overlap": overlap}
    used = method
    found = predictions(network, entries, method, batch_size, num_workers, title, settings, truth=True)
    for _, sample, flow, method_used in found:
        used = method_used
        assert sample.flow is not None
        hidden = None if sample.occlusion is None else sample.occlusion[None]
        metrics.update(flow[None], sample.flow[None], occlusion=hidden)
    values = {name: None if isnan(value) else value for name, value in metrics.compute().items()}
    settings = {**settings, "max_flow": max_flow}
    return {"data": title, "pairs": len(entries), "method": used, "settings": settings, "metrics": values}


def evaluate_parts(
    network: MidwayNetwork, parts: Mapping[str, Entries], *, methods: Sequence[str] = ("auto",), **options: Any
) -> list[dict[str, Any]]:
    """:func:`evaluate_flow` of each part with each method, e.g. ``("head", "perturbation", "zero")``: rows of a table.

    Args:
        network: as there.
        parts: title -> pairs, as :func:`evaluation_files` gives them.
        methods: in the order of the rows.
        **options: of :func:`evaluate_flow`.
    """
    return [
        evaluate_flow(network, entries, title=title, method=method, **options)
        for title, entries in parts.items()
        for method in methods
    ]


def table(results: Iterable[Mapping[str, Any]]) -> str:
    """Results of :func:`evaluate_flow` as an aligned Markdown table: errors in pixels, shares in percent."""
    results = list(results)
    shown = [name for name in _COLUMNS if any(result["metrics"].get(name) is not None for result in results)]
    rows = [["data", "pairs", "method", *(_COLUMNS[name] for name in shown)]]
    for result in results:
        values = [_cell(name, result["metrics"].get(name)) for name in shown]
        rows.append([str(result["data"]), str(result["pairs"]), str(result["method"]), *values])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.rjust(width) if place != 0 and place != 2 else cell.ljust(width) for place, (cell, width)
        in enumerate(zip(row, widths, strict=True))) + " |"
        for row in rows
    ]  # fmt: skip
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if "%" in _COLUMNS[name] else f"{value:.3f}"


def write_submission(
    network: MidwayNetwork,
    entries: Entries,
    folder: str | Path,
    *,
    form: str,
    method: str = "auto",
    tile: int | tuple[int, int] | None = None,
    overlap: float = 0.9,
    batch_size: int = 4,
    num_workers: int = 0,
    overwrite: bool = False,
    **options: Any,
) -> list[Path]:
    """Predict a test set and write the files that its server takes.

    Args:
        network: as for :func:`evaluate_flow`, as are the arguments that are not named here.
        entries: of Sintel's or KITTI's split "test".
        folder: output folder; created if it does not exist.
        form: "sintel" writes ``clean/<sequence>/frame_0001.flo`` (and ``final/...``), for the authors' bundler; "kitti"
            ``flow/000000_10.png``, every pixel valid, values cut at the 512 pixels that the format holds.
        overwrite: replace existing files.

    Returns:
        The files, in the order of the pairs.

    Raises:
        ConfigError: for another form.
        OutputExistsError: if a file exists and ``overwrite`` is false, before anything is computed.
        InputError, MissingFileError: as :func:`evaluate_flow`.
    """
    if form not in FORMS:
        raise ConfigError(f"form={form!r} must be {' or '.join(FORMS)}.")
    folder = Path(folder)
    paths = [folder / FORMS[form].format(entries[index].name) for index in range(len(entries))]
    for path in paths:
        make_folder(path.parent)
        check_output(path, overwrite=overwrite)
    settings = {**options} if method == "zero" else {**options, "tile": tile, "overlap": overlap}
    found = predictions(network, entries, method, batch_size, num_workers, form, settings, truth=False)
    for index, _, flow, _ in found:
        if not flow.isfinite().all():
            raise InputError(f"the flow predicted for {entries[index].name} is not finite.")
        if paths[index].suffix == ".png":
            flow = flow.clamp(-_KITTI_LIMIT, _KITTI_LIMIT)
        write_flow(paths[index], flow, overwrite=overwrite)
    return paths


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
        network: the network.
        entries: pairs.
        method: one of :data:`METHODS`.
        batch_size: pairs or tiles per forward pass.
        num_workers: processes that read files ahead; 0 reads in this one.
        title: name of the pairs in the progress bar and messages.
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
    with bar(total=len(entries), unit=" pairs", desc=title or None) as shown:
        for samples in loader:
            flows, used = _predict(network, samples, method, batch_size, options)
            for sample, flow in zip(samples, flows, strict=True):
                yield index, sample, flow, used
                index += 1
            shown.update(len(samples))


def _predict(
    network: MidwayNetwork, samples: Sequence[FlowSample], method: str, batch_size: int, options: Mapping[str, Any]
) -> tuple[Iterable[Tensor], str]:
    if method == "zero":
        return [torch.zeros(2, *sample.source.shape[1:]) for sample in samples], method
    sources, targets = [sample.source for sample in samples], [sample.target for sample in samples]
    # Rows of a table share the overlap, which only a head reads.
    tiled = method == "head" or (method == "auto" and network.flow_head is not None)
    taken: dict[str, Any] = {"size": "full"} if tiled else {}
    taken |= {name: value for name, value in options.items() if tiled or name != "overlap"}
    found = predict_flow(network, sources, targets, method=method, batch_size=batch_size, **taken)  # type: ignore[arg-type]
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
