"""Tables that grow row by row."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from midway_zoo.inference.spool import TensorSpool
from midway_zoo.reading import METADATA_KEY


@pytest.mark.parametrize("name", ["t.safetensors", "t.npz"])
def test_rows_come_back(tmp_path, name) -> None:
    half, ragged = torch.randn(5, 3, 2), [torch.randn(2, 3), torch.randn(4, 1)]
    with TensorSpool(tmp_path / name) as spool:
        for rows in half.split(2):
            spool.add("half", rows.bfloat16())
            spool.add("flags", rows[:, 0, 0] > 0)
            spool.add("times", rows[:, 0, 0].double())
        spool.add("ragged", ragged)
        spool.write({"a": 1})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if name.endswith("npz"):
        with np.load(tmp_path / name) as file:
            assert str(file["metadata"]) == '{"a": 1}'
            found = {key: torch.from_numpy(file[key]) for key in file.files if key != "metadata"}
        assert found["half"].dtype == torch.float32
    else:
        found = load_file(tmp_path / name)
        assert found["half"].dtype == torch.bfloat16
        with safe_open(tmp_path / name, framework="pt") as file:
            assert file.metadata() == {METADATA_KEY: '{"a": 1}'}
    assert torch.equal(found["half"].float(), half.bfloat16().float())
    assert torch.equal(found["flags"], half[:, 0, 0] > 0)
    assert torch.equal(found["times"], half[:, 0, 0].double())
    assert torch.equal(found["ragged.0"], ragged[0])
    assert torch.equal(found["ragged.1"], ragged[1])


def test_torn_rows_are_left_out_and_a_failure_leaves_nothing(tmp_path) -> None:
    with TensorSpool(tmp_path / "t.safetensors") as spool:
        spool.add("a", torch.zeros(3, 2))
        spool.add("b", torch.zeros(2, 2))
        spool.write({}, rows=2)
    assert {len(tensor) for tensor in load_file(tmp_path / "t.safetensors").values()} == {2}
    with TensorSpool(tmp_path / "u.npz") as spool:
        spool.add("a", torch.zeros(3, 2))
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]
