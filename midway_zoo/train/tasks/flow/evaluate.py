"""How good the flow of a network is on the published data sets."""

from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from midway_zoo.flow import FlowMetrics
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.data.flow_datasets import DATASETS, dataset_key, list_part
from midway_zoo.train.data.flow_files import FlowFiles
from midway_zoo.train.tasks.flow.predictions import Entries, predictions

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


def evaluation_files(
    dataset: str, root: str | Path, *, split: str | None = None, passes: Sequence[str] = ("clean", "final")
) -> dict[str, FlowFiles]:
    """What a data set is evaluated on, by part.

    Args:
        dataset: a key of :data:`~midway_zoo.train.data.flow_datasets.DATASETS`, or one of its short names ("things"); a
            hyphen does for an underscore.
        root: its folder, or the folder that holds it under its usual name.
        split: which pairs; by default those that fine-tuning does not see: Sintel's "subval", "test" of FlyingThings,
            "val" of FlyingChairs; elsewhere "train", whose flow is published. A split without flow is for
            :func:`~midway_zoo.train.tasks.flow.submission.write_submission`.
        passes: of Sintel and FlyingThings.

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
        title: what to call them.
        method: one of :data:`~midway_zoo.train.tasks.flow.predictions.METHODS`.
        tile: for the head, as in :func:`midway_zoo.predict_flow`.
        overlap: of tiles; the protocol takes 0.7 for validation and 0.9 for test.
        batch_size: pairs, or tiles, at once.
        max_flow: leave out longer vectors, in pixels; see :class:`~midway_zoo.flow.FlowMetrics`.
        num_workers: processes that read files ahead; 0 reads in this one.
        **options: for :func:`midway_zoo.predict_flow` (size, coarse, level, draws, seed, window).

    Returns:
        JSON types: ``data`` (the title), ``pairs``, ``method`` (the one that was used), ``settings``, and ``metrics``
        with the names of :class:`~midway_zoo.flow.FlowMetrics`: pooled over pixels, and with ``_per_image`` averaged
        over images. Sintel and FlyingThings publish ``epe``, KITTI ``epe_per_image`` and ``fl_all``. None where there
        was no pixel.

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
