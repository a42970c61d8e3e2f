"""Files to submit to the servers of Sintel and KITTI."""

from pathlib import Path
from typing import Any

from midway_zoo.errors import ConfigError, InputError
from midway_zoo.files import check_output
from midway_zoo.flow import write_flow
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.data.flow_datasets import FORMS
from midway_zoo.train.tasks.flow.predictions import Entries, predictions

_KITTI_LIMIT = 511.984375  # (2^16 - 1 - 2^15) / 64, the largest component that the format holds


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
        folder: where to; made if it does not exist.
        form: "sintel" writes ``clean/<sequence>/frame_0001.flo`` (and ``final/...``), for the authors' bundler; "kitti"
            ``flow/000000_10.png``, every pixel valid, values cut at the 512 pixels that the format holds.
        overwrite: replace files that are there.

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
        path.parent.mkdir(parents=True, exist_ok=True)
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
