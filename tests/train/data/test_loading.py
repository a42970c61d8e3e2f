"""Batches in order, and errors of workers as what they were."""

import subprocess
import sys

import pytest
import torch
from torch.utils.data import Dataset, default_collate

from midway_zoo.errors import DataError
from midway_zoo.train.data.loading import make_loader


class Numbers(Dataset[torch.Tensor]):
    def __getitem__(self, number: int) -> torch.Tensor:
        if number == 5:
            raise DataError("gone.")
        return torch.tensor(number)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_is_raised_in_its_turn_and_its_words(workers: int) -> None:
    batches = iter(make_loader(Numbers(), [[0, 1], [2, 3], [4, 5], [6, 7]], default_collate, num_workers=workers))
    assert [next(batches).tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(DataError, match=r"^gone\.$"):
        next(batches)


FAILS = """
from torch.utils.data import default_collate
from midway_zoo.train.data.loading import make_loader
from tests.train.data.test_loading import Numbers

batches = iter(make_loader(Numbers(), [[0, 1], [2, 3], [4, 6]], default_collate, num_workers=1))
next(batches)
raise SystemError("unforeseen")
"""


def test_a_program_that_fails_with_a_loader_open_ends() -> None:
    done = subprocess.run([sys.executable, "-c", FAILS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "unforeseen" in done.stderr
