"""A flow head whose first layers even out what the tokens vary in."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from midway_zoo.errors import ConfigError
from midway_zoo.models.network import MidwayNetwork
from midway_zoo.train.loop import fit
from midway_zoo.train.tasks.flow.head_start import whiten
from midway_zoo.train.tasks.flow.task import FlowTask
from midway_zoo.train.weights import network_from
from tests.train.test_resume import assert_same_weights, lines

Make = Callable[..., FlowTask]


def projected(task: FlowTask, batches: list[dict[str, Tensor]]) -> list[Tensor]:
    """Outputs of the head's projections on all tokens, (n, width) of each."""
    found: dict[int, list[Tensor]] = {}
    head = task.model.network.flow_head
    hooks = [
        layer.register_forward_hook(
            lambda _, __, out, index=index: found.setdefault(index, []).append(out.flatten(2).mT.flatten(0, 1))
        )
        for index, layer in enumerate(head.project)
    ]
    with torch.no_grad():
        for batch in batches:
            task.model.network.flow(batch["source"], batch["target"])
    for hook in hooks:
        hook.remove()
    return [torch.cat(found[index]).detach() for index in range(4)]


def test_projections_see_tokens_without_mean_and_with_even_variance(make_task: Make) -> None:
    task = make_task()
    network = task.model.network
    plain = [layer.weight[:, :, 0, 0].clone() for layer in network.flow_head.project]
    last = network.flow_head.output[-1].weight.clone()
    batches = [task._frames(batch) for batch in task.batches(0, 8, rank=0, world=1)]
    before = projected(task, batches)
    whiten(network, batches)
    after = projected(task, batches)
    assert torch.equal(network.flow_head.output[-1].weight, last * 0.1)
    for weight, old, new in zip(plain, before, after, strict=True):
        even = weight @ weight.T  # the covariance of white tokens
        wrong = [float(((torch.cov(values.T) - even).norm() / even.norm()).detach()) for values in (old, new)]
        assert wrong[1] < 0.5 * wrong[0]
        assert new.mean(0).abs().max() < 1e-3 < old.mean(0).abs().max()


def test_a_run_begins_so_once_and_a_head_that_is_given_stays(
    make_task: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def counted(network: MidwayNetwork, batches: Iterable[dict[str, Tensor]], *, pairs: int) -> None:
        batches = list(batches)
        calls.append(sum(len(batch["source"]) for batch in batches))
        whiten(network, batches, pairs=pairs)

    monkeypatch.setattr("midway_zoo.train.tasks.flow.task.PAIRS", 16)
    monkeypatch.setattr("midway_zoo.train.tasks.flow.task.whiten", counted)
    asked = "network.head_init=whitened"
    begun = make_task(asked, "max_steps=2")
    plain = make_task("network.head_init=plain", f"out={tmp_path / 'plain'}").model.network.flow_head
    head = begun.model.network.flow_head
    assert torch.equal(head.output[-1].weight, plain.output[-1].weight * 0.1)
    assert not any(
        torch.equal(one.weight, other.weight) for one, other in zip(head.project, plain.project, strict=True)
    )
    assert calls == [16]
    fit(begun)
    fit(make_task(asked, "resume=must"))
    assert calls == [16]
    fit(make_task(asked, f"out={tmp_path / 'whole'}"))
    assert calls == [16, 16]
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")
    assert_same_weights(tmp_path / "run", tmp_path / "whole")

    caplog.set_level("INFO", logger="midway_zoo")
    given = make_task(asked, f"out={tmp_path / 'next'}", f"init_from={tmp_path / 'run'}", "initial=full")
    assert calls == [16, 16]
    trained = network_from(str(tmp_path / "run"), paired=False)
    assert torch.equal(given.model.network.flow_head.project[0].weight, trained.flow_head.project[0].weight)
    assert "network.head_init=whitened has no effect" in caplog.text
    with pytest.raises(ConfigError, match=r"network.head_init='white' must be one of plain, whitened"):
        make_task("network.head_init=white")


def test_statistics_are_of_the_first_pairs_whatever_the_batches(make_task: Make) -> None:
    """37 pairs of batches of 2 or of 40; the reference is torch.cov over all tokens at once."""
    weights = []
    for size in (2, 40):
        task = make_task(f"batch_size={size}")
        network = task.model.network
        frames = [task._frames(batch) for batch in task.batches(0, -(-37 // size), rank=0, world=1)]
        if size == 40:
            source, target = (torch.cat([batch[name] for batch in frames])[:37] for name in ("source", "target"))
            plain = network.flow_head.project[0].weight[:, :, 0, 0].double()
            with torch.no_grad():
                tokens = network.encode_pair(source, target)[0][3]
            tokens = tokens[:, 1:].flatten(0, 1).double()
            variance, directions = torch.linalg.eigh(torch.cov(tokens.T, correction=0))
            scale = (variance + 0.01 * variance.mean()).rsqrt()
            expected = plain @ (directions * scale) @ directions.T
        whiten(network, frames, pairs=37)
        weights.append(network.flow_head.project[0].weight[:, :, 0, 0].double().detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(weights[1], expected.detach(), rtol=1e-3, atol=1e-4)
