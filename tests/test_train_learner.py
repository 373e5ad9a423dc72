"""One step of learning: which losses reach which weights, and that portions of a batch are the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flowprep.errors import RefusedError, UsageError
from flowprep.stacks.torch_loader import to_pixels
from flowprep.train import learner as learner_module
from flowprep.train.compiling import check_gradients
from flowprep.train.device import autocast, choose_device
from flowprep.train.learner import Learner, Part, _portions, _seed
from flowprep.train.processes import Processes
from flowprep.train.tasks import Lessons, open_lessons
from tests.training_data import dataset, run, same, tiny

CPU = Processes(torch.device("cpu"))


def learner_of(processes: Processes = CPU, **changes: Any) -> tuple[Learner, Lessons, list[Part]]:
    """A learner, what it learns, and the first batch."""
    config = tiny(Path("unused"), **changes)
    lessons = open_lessons(config, 3, share=(0, 1), workers=0)
    learner = Learner(config, lessons, processes, lambda _: None, begin=True)
    return learner, lessons, [learner.part(source.loader.batch(0, 0), source) for source in lessons.sources]


def gradients(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in learner.network.named_parameters() if weight.grad is not None}


def test_the_loss_is_the_mean_cross_entropy() -> None:
    learner, lessons, (part,) = learner_of(net={"dropout": 0.0})
    batch = lessons.sources[0].loader.batch(0, 0)
    logits = learner.network(torch.from_numpy(batch.numpy()))[0].detach()
    expected = -logits.log_softmax(1)[range(len(batch)), batch.labels].mean().item()
    right = (logits.argmax(1).numpy() == batch.labels).mean()
    assert learner.step(1, 0.0, [part]).tolist() == pytest.approx([expected, right], rel=1e-5)


def test_a_head_learns_from_its_own_samples_alone() -> None:
    """Without samples of the second task its head has no gradient, and the first's does not change."""
    learner, _, (first, second) = learner_of(data={"also": [str(dataset("second"))]}, net={"dropout": 0.0})
    learner.step(1, 0.0, [first, second])
    both = gradients(learner)
    learner.step(1, 0.0, [first])
    alone = gradients(learner)
    torch.testing.assert_close(alone["heads.0.weight"], both["heads.0.weight"])
    assert both["heads.0.weight"].abs().max() > 0
    assert both["heads.1.weight"].abs().max() > 0
    assert alone["heads.1.weight"].abs().max() == 0
    learner.step(1, 0.0, [second])
    other = gradients(learner)
    trunk = next(name for name in both if name.startswith("trunk"))
    torch.testing.assert_close(alone[trunk] + other[trunk], both[trunk])


def test_each_task_has_the_mean_loss_of_its_own_samples() -> None:
    """And what is minimised is their sum."""
    learner, lessons, parts = learner_of(
        data={"also": [str(dataset("second"))]}, net={"dropout": 0.0}, solver={"batch": 9}
    )
    losses = []
    for head, source in enumerate(lessons.sources):
        batch = source.loader.batch(0, 0)
        logits = learner.network(torch.from_numpy(batch.numpy()))[head]
        losses.append(torch.nn.functional.cross_entropy(logits, source.labels[batch.labels]))
    assert [len(part.batch.labels) for part in parts] == [5, 4]
    weights = list(learner.network.parameters())
    expected = torch.autograd.grad(losses[0] + losses[1], weights)
    assert learner.step(1, 0.0, parts)[:-1].tolist() == pytest.approx([loss.item() for loss in losses], rel=1e-5)
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-6)


def test_the_accuracy_is_the_share_of_all_samples() -> None:
    """Of two tasks, whose samples count alike."""
    learner, lessons, parts = learner_of(
        data={"also": [str(dataset("second"))]}, net={"dropout": 0.0}, solver={"batch": 9}
    )
    right = 0
    for head, source in enumerate(lessons.sources):
        batch = source.loader.batch(0, 0)
        with torch.no_grad():  # so that some are right, whatever the weights
            learner.network.heads[head].bias[source.labels[batch.labels[0]]] += 1000
        right += int((batch.labels == batch.labels[0]).sum())
    assert 2 <= right < 9
    assert learner.step(1, 0.0, parts)[-1].item() == pytest.approx(right / 9)


def test_steps_have_momentum_and_weight_decay() -> None:
    """v = momentum * v + gradient + decay * w; w = w - rate * v, of weights and biases alike."""
    solver = {"momentum": 0.8, "weight_decay": 0.1}
    learner, _, parts = learner_of(net={"dropout": 0.0}, solver=solver)
    weights = {name: weight.detach().clone() for name, weight in learner.network.named_parameters()}
    velocity = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for iteration, rate in ((1, 0.1), (2, 0.05)):
        learner.step(iteration, rate, parts)
        for name, gradient in gradients(learner).items():
            velocity[name] = 0.8 * velocity[name] + gradient + 0.1 * weights[name]
            weights[name] -= rate * velocity[name]
    for name, weight in learner.network.named_parameters():
        torch.testing.assert_close(weight.detach(), weights[name], rtol=1e-4, atol=1e-7)


# --- compiled ---


def test_nothing_is_compiled_for_a_cpu() -> None:
    with pytest.raises(UsageError, match="solver.compile: on a CPU, PyTorch's compiler leaves convolutions without"):
        learner_of(solver={"compile": True})


def test_a_compiled_network_goes_on_where_its_gradients_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at them changes nothing, not even the statistics of batch normalisation."""
    calls: list[torch.nn.Module] = []
    monkeypatch.setattr(learner_module, "compiled", lambda network, _: lambda x: calls.append(network) or network(x))
    plain, _, parts = learner_of(net={"name": "resnet18"})
    learner, _, _ = learner_of(net={"name": "resnet18"}, solver={"compile": True})
    for iteration, seen in ((1, 2), (2, 3)):
        assert torch.equal(learner.step(iteration, 0.1, parts), plain.step(iteration, 0.1, parts))
        assert calls == [learner.network] * seen
    assert same(learner.state(), plain.state())


def test_a_compiled_network_without_some_gradients_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(network: Any, _: torch.device) -> Any:
        return lambda x: [head(network.features(x).detach() + 0 * network.features(x)) for head in network.heads]

    monkeypatch.setattr(learner_module, "compiled", cut)
    learner, _, parts = learner_of(solver={"compile": True})
    with pytest.raises(RefusedError, match=r"trunk.conv1.weight has a gradient of length 0, and of .*train without"):
        learner.step(1, 0.1, parts)


def test_gradients_that_are_much_longer_or_shorter() -> None:
    expected = {"one": torch.ones(4), "two": torch.ones(9), "noise": torch.full((4,), 1e-9)}
    check_gradients(expected, expected)
    check_gradients(expected, {**expected, "one": 4 * torch.ones(4), "noise": torch.zeros(4)})
    for wrong in (torch.zeros(9), 11 * torch.ones(9), 0.09 * torch.ones(9), torch.full((9,), torch.nan)):
        with pytest.raises(RefusedError, match="two has a gradient"):
            check_gradients(expected, {**expected, "two": wrong})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_compiled_network_learns_as_it_would_otherwise() -> None:
    gpu = Processes(torch.device("cuda", 0))
    changes: dict[str, Any] = {"net": {"dropout": 0.5}, "solver": {"precision": "float32"}}
    plain, _, parts = learner_of(gpu, **changes)
    learner, _, _ = learner_of(gpu, **{**changes, "solver": {"precision": "float32", "compile": True}})
    torch.testing.assert_close(learner.step(1, 0.0, parts), plain.step(1, 0.0, parts), rtol=1e-2, atol=1e-2)
    for name, gradient in gradients(plain).items():
        assert (gradients(learner)[name] - gradient).norm() < 0.05 * gradient.norm() + 1e-6


# --- portions ---


def test_a_single_part_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, _, parts = learner_of()
    made: list[torch.Tensor] = []
    seen: list[int] = []
    monkeypatch.setattr(learner_module, "to_pixels", lambda *args: made.append(to_pixels(*args)) or made[-1])
    forward = learner._forward
    learner._forward = lambda x: seen.append(x.data_ptr()) or forward(x)  # type: ignore[func-returns-value]
    learner.step(1, 0.0, parts)
    assert seen == [tensor.data_ptr() for tensor in made]


def test_no_portion_is_larger_than_asked_for() -> None:
    learner, _, parts = learner_of(data={"also": [str(dataset("second"))]}, solver={"batch": 10, "micro_batch": 3})
    sizes: list[int] = []
    forward = learner._forward
    learner._forward = lambda x: sizes.append(len(x)) or forward(x)  # type: ignore[func-returns-value]
    learner.step(1, 0.0, parts)
    assert sorted(sizes) == [2, 2, 3, 3]
    odd, _, parts = learner_of(data={"also": [str(dataset("second"))]}, solver={"batch": 10, "micro_batch": 5})
    assert [[len(part.batch.labels) for part in _portions(parts, number, 2)] for number in (0, 1)] == [[3, 2], [2, 3]]
    assert odd._portions == 2


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_portions_of_a_batch_are_the_batch(micro_batch: int) -> None:
    changes: dict[str, Any] = {"data": {"also": [str(dataset("second"))]}, "net": {"dropout": 0.0}}
    whole, _, parts = learner_of(**changes, solver={"batch": 9})
    portions, _, _ = learner_of(**changes, solver={"batch": 9, "micro_batch": micro_batch})
    measured = whole.step(1, 0.0, parts), portions.step(1, 0.0, parts)
    torch.testing.assert_close(*measured)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(portions)[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("solver", [{"batch": 1}, {"batch": 9, "micro_batch": 1}, {"batch": 3, "micro_batch": 2}])
def test_batch_normalisation_needs_two_samples_at_once(solver: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="resnet18 needs 2 samples at once"):
        learner_of(net={"name": "resnet18"}, solver=solver)
    learner, _, parts = learner_of(net={"name": "resnet18"}, solver={**solver, "regime": "last-layer"})
    learner.step(1, 0.0, parts)


def test_too_small_a_memory_halves_the_portions() -> None:
    said: list[str] = []
    whole, _, parts = learner_of(net={"dropout": 0.0})
    learner, _, _ = learner_of(net={"dropout": 0.0})
    learner._say = said.append
    limited(learner, 3)
    torch.testing.assert_close(learner.step(1, 0.0, parts), whole.step(1, 0.0, parts))
    assert [text.split(": ")[1] for text in said] == [
        "going on with 4 samples at once.",
        "going on with 2 samples at once.",
    ]
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(gradients(learner)[name], gradient, rtol=1e-4, atol=1e-6)
    learner.step(2, 0.0, parts)
    assert len(said) == 2, "the portions stay small"
    limited(learner, 0)
    with pytest.raises(RefusedError, match="its memory is too small; try a narrower network"):
        learner.step(3, 0.0, parts)


def limited(learner: Learner, most: int) -> None:
    """From now on ``learner`` has memory for so many samples."""

    def forward(x: torch.Tensor) -> list[torch.Tensor]:
        if len(x) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        logits: list[torch.Tensor] = learner.network(x)
        return logits

    learner._forward = forward


def test_only_the_last_layer_learns() -> None:
    learner, _, parts = learner_of(solver={"regime": "last-layer"}, net={"name": "resnet18"})
    before = {name: value.clone() for name, value in learner.state().items()}
    learner.step(1, 0.1, parts)
    changed = {name for name, value in learner.state().items() if not torch.equal(value, before[name])}
    assert changed == {"heads.0.weight", "heads.0.bias"}


def test_dropout_follows_from_seed_iteration_and_rank() -> None:
    learner, _, parts = learner_of()
    first, again = learner.step(1, 0.0, parts), learner.step(1, 0.0, parts)
    assert torch.equal(first, again)
    assert not torch.equal(learner.step(2, 0.0, parts), first)
    assert len({_seed(seed, iteration, rank) for seed in range(3) for iteration in range(3) for rank in range(3)}) == 27


def test_a_run_begins_with_the_weights_of_another(tmp_path: Path) -> None:
    """Fine-tuning on the other dataset: the trunk is taken, the head with other classes is not."""
    outcome, before = run(tiny(tmp_path / "before", solver={"iterations": 1}))
    said: list[str] = []
    weights = {"weights": str(outcome.checkpoint), "dropout": 0.0}
    config = tiny(tmp_path / "after", dataset=str(dataset("second")), net=weights)
    lessons = open_lessons(config, 1, share=(0, 1), workers=0)
    learner = Learner(config, lessons, CPU, said.append, begin=True)
    assert "tensors taken, heads.0." in said[0]
    state = learner.state()
    assert all(torch.equal(state[name], value) for name, value in before.model.items() if name.startswith("trunk"))
    assert len(state["heads.0.weight"]) == 3


def learned() -> tuple[Learner, dict[str, torch.Tensor], dict[str, Any]]:
    """A learner that has not begun, and the states of one that has."""
    before, _, parts = learner_of()
    before.step(1, 0.1, parts)
    state = before.optimiser.state_dict()
    learner, _, _ = learner_of()
    assert learner.optimiser.state == {}
    return learner, before.state(), {"state": {number: dict(item) for number, item in state["state"].items()}}


def test_momentum_goes_on_in_memory_of_its_own() -> None:
    """However it lies in the file: here as one number, repeated, which a step would write to many times."""
    learner, model, state = learned()
    first, second = (state["state"][number]["momentum_buffer"] for number in (0, 1))
    state["state"][0]["momentum_buffer"] = torch.ones(1).expand(first.shape)
    learner.go_on(model, state)
    weights = learner.optimiser.param_groups[0]["params"]
    kept = [learner.optimiser.state[weight]["momentum_buffer"] for weight in weights]
    assert torch.equal(kept[0], torch.ones(first.shape)) and torch.equal(kept[1], second)
    assert kept[1] is not second
    assert [buffer.stride() for buffer in kept] == [weight.stride() for weight in weights]
    assert same(learner.state(), model)


def test_a_momentum_that_is_none_is_refused() -> None:
    learner, model, state = learned()
    momentum = state["state"][1]["momentum_buffer"]
    wrong = [momentum.double(), momentum.int(), momentum.half(), momentum.to_sparse(), momentum.to("meta")]
    for other in [*wrong, momentum.flatten()[1:], momentum.tolist(), None]:
        state["state"][1] = {"momentum_buffer": other}
        with pytest.raises(RefusedError, match="checkpoint.pt: not of this network, or its momentum is not: delete it"):
            learner.go_on(model, state)
    state["state"][1] = {"momentum_buffer": momentum}
    learner.go_on(model, state)


def test_states_that_lack_something_are_refused() -> None:
    learner, model, state = learned()
    some = {number: item for number, item in state["state"].items() if number}
    bias = model["heads.0.bias"]
    for wrong in ({}, {"state": {}}, {"state": some}, {"state": []}, {"state": {**some, 0: {}}}, {"state": None}):
        with pytest.raises(RefusedError, match="its momentum is not: delete it"):
            learner.go_on(model, wrong)
    for other in (bias.int(), bias.double(), bias[1:]):
        with pytest.raises(RefusedError, match="not of this network"):
            learner.go_on({**model, "heads.0.bias": other}, state)


def test_precision_is_as_asked() -> None:
    learner, _, parts = learner_of(solver={"precision": "bfloat16"}, net={"dropout": 0.0})
    exact, _, _ = learner_of(net={"dropout": 0.0})
    rough, fine = learner.step(1, 0.0, parts), exact.step(1, 0.0, parts)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, fine)
    torch.testing.assert_close(rough, fine, rtol=0.02, atol=0.02)
    with autocast("auto", torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "give cpu, cuda, or a certain GPU as in cuda:1"),
        ("cuda:x", "give cpu, cuda, or a certain GPU"),
        ("cuda:99", "there is no GPU number 99"),
        ("cpu:0", "give cpu, cuda"),
    ],
)
def test_devices_that_are_none(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_device(name)
