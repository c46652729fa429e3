"""Recorded search steps: the same trajectory, no look at numbers on the host; what forbids it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from types import SimpleNamespace

import pytest
import torch
from image_files import write_npz
from recorders import NoLooking, Repeater, Tape, Unable
from tiny_runs import tiny_search

from ssfnas import ops
from ssfnas.data import load_data
from ssfnas.errors import NumericalError, RequestError
from ssfnas.runtime.distributed import World
from ssfnas.training.graphed_step import WARM_UP, CudaGraphRecorder, GraphedStep, why_not_graphed
from ssfnas.training.search_trainer import SearchTrainer

# As a number and as a float32 tensor the same.
RATES = {"weight_lr": 0.03125, "weight_lr_min": 0.03125, "alpha_lr": 0.01}


@pytest.fixture
def dataset(tmp_path):
    return write_npz(tmp_path / "images.npz", (40, 24, 10))


def trainer_of(
    dataset, recorder=None, dtype=torch.float64, place="cpu", **changes
) -> SearchTrainer:
    """``place``: the device; the config's own ``device`` is for commands, and is not looked at."""
    config = tiny_search(dataset, **{**RATES, **changes})
    device = torch.device(place)
    world = World(rank=0, size=1, device=device, group=None)
    return SearchTrainer(config, load_data(config).to(device), world, dtype, recorder)


def state_of(trainer) -> list[torch.Tensor]:
    tensors = [*trainer.net.state_dict().values(), *trainer.objective.state_dict().values()]
    for optimizer in (trainer.weight_optimizer, trainer.alpha_optimizer):
        for state in optimizer.state.values():
            tensors += [state[name] for name in sorted(state) if name != "step"]
    return [tensor.detach().clone() for tensor in tensors]


def run(trainer, steps):
    for _ in range(steps):
        trainer.run_step()


def assert_alike(found, expected, bound=1e-11):
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=bound, atol=bound)


@pytest.mark.parametrize("objective", ["supervised", "ssl", "joint"])
@pytest.mark.parametrize("strategy", ["fairdarts", "darts"])
def test_recorded_steps_are_the_steps(dataset, objective, strategy):
    changes = {"objective": objective, "strategy": strategy}
    recorder = Repeater()
    plain, recorded = trainer_of(dataset, **changes), trainer_of(dataset, recorder, **changes)
    assert plain.graphed is None
    for _ in range(WARM_UP + 4):
        plain.run_step()
        recorded.run_step()
    assert recorder.recorded == 1
    assert_alike(state_of(recorded), state_of(plain))
    expected = plain.means.values()
    assert recorded.means.values() == pytest.approx(expected, rel=1e-11)


def test_nothing_that_changes_from_step_to_step_is_recorded(dataset):
    changes = {"objective": "joint", "cuda_graph": "on", "weight_lr_min": 0.0}
    plain, taped = (trainer_of(dataset, recorder, **changes) for recorder in (Repeater(), Tape()))
    with ops.backend("torch"):
        run(plain, WARM_UP + 4)
        run(taped, WARM_UP + 4)
    assert_alike(state_of(taped), state_of(plain))


def test_steps_with_and_without_an_update_of_alpha_are_two_recordings(dataset):
    changes = {"objective": "supervised", "alpha_warmup_epochs": 1, "weight_lr_min": 0.0}
    plain, recorded = trainer_of(dataset, **changes), trainer_of(dataset, Tape(), **changes)
    per_epoch = plain.steps_per_epoch
    assert per_epoch > WARM_UP + 1
    with ops.backend("torch"):
        for trainer in (plain, recorded):
            run(trainer, per_epoch)
        assert recorded.graphed._replay is not None
        for trainer in (plain, recorded):
            run(trainer, 1)
        assert recorded.graphed._replay is None
        for trainer in (plain, recorded):
            run(trainer, WARM_UP)
    assert recorded.graphed._replay is not None
    assert_alike(state_of(recorded), state_of(plain), bound=1e-6)


def test_what_a_graph_reads_and_writes_stays_where_it_is(dataset):
    trainer = trainer_of(dataset, Repeater(), objective="joint")
    trainer.run_step()

    def places():
        tensors = [*trainer.net.state_dict().values(), *trainer.objective.state_dict().values()]
        for optimizer in (trainer.weight_optimizer, trainer.alpha_optimizer):
            for state in optimizer.state.values():
                tensors += [value for value in state.values() if value is not None]
        tensors.append(trainer.weight_optimizer.param_groups[0]["lr"])
        return [tensor.data_ptr() for tensor in tensors]

    before = places()
    for _ in range(WARM_UP + 2):
        trainer.run_step()
        trainer.means.values()
    assert places() == before


@pytest.mark.parametrize("objective", ["supervised", "ssl", "joint"])
@pytest.mark.parametrize("strategy", ["fairdarts", "darts"])
def test_no_number_is_looked_at_within_a_step(dataset, objective, strategy):
    trainer = trainer_of(dataset, Repeater(), objective=objective, strategy=strategy)
    trainer.run_step()
    batches = trainer.alpha_stream.next(), trainer.weight_stream.next()
    with ops.backend("torch"), NoLooking():
        trainer.graphed(*batches)


def test_the_plain_step_looks(dataset):
    trainer = trainer_of(dataset, objective="supervised")
    batches = trainer.alpha_stream.next(), trainer.weight_stream.next()
    with (
        ops.backend("torch"),
        pytest.raises(AssertionError, match=r"nonzero|_local_scalar"),
        NoLooking(),
    ):
        trainer.bilevel.step(*batches)


def test_schedule_reaches_a_recorded_step(dataset):
    changes = {"weight_lr": 0.05, "weight_lr_min": 0.0}
    plain, recorded = trainer_of(dataset, **changes), trainer_of(dataset, Repeater(), **changes)
    for _ in range(WARM_UP + 4):
        plain.run_step()
        recorded.run_step()
    rate = recorded.weight_optimizer.param_groups[0]["lr"]
    assert float(rate) == pytest.approx(plain.weight_optimizer.param_groups[0]["lr"], rel=1e-7)
    assert float(rate) < 0.049
    assert_alike(state_of(recorded), state_of(plain), bound=1e-6)


def test_resumed_steps_are_the_steps_to_the_bit(dataset):
    first = trainer_of(dataset, Repeater(), torch.float32)
    for _ in range(WARM_UP + 2):
        first.run_step()
    kept = copy.deepcopy(first.state_dict())
    rate = kept["bilevel"]["weight_optimizer"]["param_groups"][0]["lr"]
    assert isinstance(rate, float)
    recorder = Repeater()
    second = trainer_of(dataset, recorder, torch.float32)
    for _ in range(WARM_UP + 1):
        second.run_step()
    tensor = second.weight_optimizer.param_groups[0]["lr"]
    second.load_state_dict(kept)
    assert second.weight_optimizer.param_groups[0]["lr"] is tensor
    for _ in range(WARM_UP + 2):
        first.run_step()
        second.run_step()
    assert recorder.recorded == 2
    for x, y in zip(state_of(second), state_of(first), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("recorded_first", [False, True])
def test_a_run_goes_on_with_the_other_kind_of_step(dataset, recorded_first):
    recorders = (Repeater(), None) if recorded_first else (None, Repeater())
    first, second = (trainer_of(dataset, recorder) for recorder in recorders)
    straight = trainer_of(dataset)
    for _ in range(3):
        first.run_step()
        straight.run_step()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    rate = second.weight_optimizer.param_groups[0]["lr"]
    assert isinstance(rate, torch.Tensor) is (not recorded_first)
    assert bool(second.alpha_optimizer.param_groups[0]["fused"]) is (not recorded_first)
    for _ in range(3):
        second.run_step()
        straight.run_step()
    assert_alike(state_of(second), state_of(straight))


@pytest.mark.parametrize("half", ["alpha", "weight"])
def test_an_update_of_a_loss_that_is_not_finite_is_left_out(dataset, half):
    trainer = trainer_of(dataset, Repeater(), objective="supervised")
    for _ in range(WARM_UP + 1):
        trainer.run_step()
    batches = {"alpha": trainer.alpha_stream.next(), "weight": trainer.weight_stream.next()}
    spoiled = tuple(torch.full_like(view, float("nan")) for view in batches[half].views)
    batches[half] = dataclasses.replace(batches[half], views=spoiled)
    parameters = {"alpha": trainer.net.alphas(), "weight": trainer.net.weights()}
    before = {name: [p.detach().clone() for p in ps] for name, ps in parameters.items()}
    trainer.means.add(trainer.graphed(batches["alpha"], batches["weight"]))
    other = "weight" if half == "alpha" else "alpha"
    assert all(torch.equal(x, y) for x, y in zip(before[half], parameters[half], strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(before[other], parameters[other], strict=True))
    with pytest.raises(NumericalError, match=f"the terms {half}/loss.* are not finite"):
        trainer.state_dict()


def test_a_search_stops_within_the_epoch_in_which_a_loss_was_not_finite(dataset, monkeypatch):
    trainer = trainer_of(dataset, Repeater(), objective="supervised")
    draw = trainer.weight_stream.next
    spoil = iter([False, True])

    def spoiled():
        batch = draw()
        if not next(spoil, False):
            return batch
        return dataclasses.replace(batch, views=tuple(view / 0 for view in batch.views))

    monkeypatch.setattr(trainer.weight_stream, "next", spoiled)
    with pytest.raises(NumericalError, match=r"weight/loss.* in one of the last 20 steps"):
        run(trainer, trainer.steps_per_epoch)
    assert trainer.step > 1


def test_a_step_that_cannot_be_recorded_is_computed_as_ever(dataset):
    plain, failed = trainer_of(dataset), trainer_of(dataset, Unable())
    with pytest.warns(UserWarning, match="kernel by kernel: operation not permitted") as warned:
        run(failed, WARM_UP + 3)
    run(plain, WARM_UP + 3)
    assert sum("kernel by kernel" in str(each.message) for each in warned) == 1
    assert_alike(state_of(failed), state_of(plain))


def test_a_step_that_has_to_be_recorded_and_cannot_is_an_error(dataset):
    trainer = trainer_of(dataset, Unable(), cuda_graph="on")
    step = trainer.graphed
    batches = trainer.alpha_stream.next(), trainer.weight_stream.next()
    for _ in range(WARM_UP):
        step(*batches)
    with pytest.raises(RequestError, match=r"--cuda-graph on: .*not permitted.*; use auto or off$"):
        step(*batches)


def test_a_recorded_step_sees_each_batch_and_takes_one_size(dataset):
    seen = []
    trainer = trainer_of(dataset, Repeater())
    loss = trainer.bilevel.loss
    trainer.bilevel.loss = lambda batch: seen.append(batch.indices.tolist()) or loss(batch)
    given = [
        (trainer.alpha_stream.next(), trainer.weight_stream.next()) for _ in range(WARM_UP + 2)
    ]
    for batches in given:
        trainer.graphed(*batches)
    assert seen == [batch.indices.tolist() for batches in given for batch in batches]
    small = [dataclasses.replace(b, views=tuple(v[:1] for v in b.views)) for b in given[0]]
    with pytest.raises(ValueError, match="one size"):
        trainer.graphed(*small)


@pytest.mark.parametrize("objective", ["supervised", "ssl"])
def test_bf16_leaves_alphas_statistics_and_gradients_in_single_precision(dataset, objective):
    trainer = trainer_of(dataset, Repeater(), torch.float32, objective=objective, precision="bf16")
    taken = []
    for updater in (trainer.bilevel.weights, trainer.bilevel.alphas):
        updater.average = taken.extend
    run(trainer, WARM_UP + 2)
    assert {gradient.dtype for gradient in taken} == {torch.float32}
    floating = [x for x in state_of(trainer) if x.is_floating_point()]
    assert {x.dtype for x in floating} == {torch.float32}
    assert all(bool(x.isfinite().all()) for x in floating)


def test_steps_that_look_at_numbers_are_refused(dataset):
    trainer = trainer_of(dataset)
    with pytest.raises(ValueError, match="on the host"):
        GraphedStep(trainer.bilevel.step, [trainer.bilevel.weights], Repeater())


def test_what_an_epoch_logs_is_plain_numbers(dataset):
    trainer = trainer_of(dataset, Repeater(), objective="supervised")
    run(trainer, trainer.steps_per_epoch)
    json.dumps(trainer.end_epoch())


@pytest.mark.parametrize(
    ("device", "size", "changes", "reason"),
    [
        ("cuda", 1, {}, None),
        ("cuda", 1, {"precision": "bf16"}, None),
        ("cpu", 1, {}, "no CUDA device"),
        ("cuda", 2, {}, "2 processes"),
        ("cuda", 1, {"order": 2}, "order 2"),
        ("cuda", 1, {"precision": "fp16"}, "fp16"),
    ],
)
def test_what_forbids_a_graph_has_a_reason(device, size, changes, reason):
    world = World(rank=0, size=size, device=torch.device(device), group=None)
    config = tiny_search("images.npz", **changes)
    found = why_not_graphed(config, world)
    assert (found is None) if reason is None else (reason in found)
    assert why_not_graphed(dataclasses.replace(config, cuda_graph="off"), world) is not None
    wanted = dataclasses.replace(config, cuda_graph="on")
    if reason is None:
        assert why_not_graphed(wanted, world) is None
    else:
        with pytest.raises(RequestError, match=f"--cuda-graph on: .*{reason}"):
            why_not_graphed(wanted, world)


@pytest.mark.parametrize("changes", [{"plugins": ["my_ops.py"]}, {"deterministic": True}])
def test_what_makes_a_graph_doubtful_leaves_it_to_those_who_ask(changes):
    world = World(rank=0, size=1, device=torch.device("cuda"), group=None)
    config = tiny_search("images.npz", **changes)
    assert next(iter(changes)) in why_not_graphed(config, world)
    assert why_not_graphed(dataclasses.replace(config, cuda_graph="on"), world) is None


class FailedCapture:
    """``torch.cuda.graph`` of a capture that was invalidated: ending it raises, as on a device."""

    def __init__(self, calls, graph, *, stream, **options):
        self.calls, self.stream = calls, stream

    def __enter__(self):
        self.calls.append(("current", self.stream))

    def __exit__(self, *failure):
        raise RuntimeError("operation failed due to a previous error during capture")


def test_a_capture_that_broke_off_is_left_behind(monkeypatch):
    calls = []
    draws = SimpleNamespace(
        clone_state=lambda: "fresh", graphsafe_set_state=lambda s: calls.append(("generator", s))
    )
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "before")
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: calls.append(("current", stream)))
    monkeypatch.setattr(torch.cuda, "default_generators", [None, draws])
    monkeypatch.setattr(torch.cuda, "graph", functools.partial(FailedCapture, calls))
    ended = functools.partial(lambda *place: calls.append(("pool", *place)))
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", ended)
    recorder = CudaGraphRecorder(torch.device("cuda", 1))
    recorder._own = "capture"

    def step():
        raise ValueError("a number was looked at")

    with pytest.raises(RuntimeError, match="previous error") as raised:
        recorder.record(step)
    assert isinstance(raised.value.__context__, ValueError)
    assert calls == [
        ("current", "capture"),
        ("current", "before"),
        ("pool", 1, (0, 7)),
        ("generator", "fresh"),
    ]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def recorded_trainer(dataset, place, **changes) -> SearchTrainer:
    """After its first steps; with a graph on a GPU, elsewhere with what stands in for one."""
    if place == "cpu":
        trainer = trainer_of(dataset, Repeater(), torch.float32, **changes)
    else:
        device = torch.device("cuda", torch.cuda.current_device())
        recorder = CudaGraphRecorder(device)
        changes = {"cuda_graph": "on", "channels": 16, **changes}
        trainer = trainer_of(dataset, recorder, torch.float32, device, **changes)
    run(trainer, WARM_UP + 1)
    return trainer


def parts_of(trainer) -> dict[str, list[torch.Tensor]]:
    """What a step changes, where it is in memory."""
    kept = {"momentum": trainer.weight_optimizer, "moments": trainer.alpha_optimizer}
    return {
        "weights": list(trainer.bilevel.weights.parameters),
        "alphas": list(trainer.bilevel.alphas.parameters),
        "statistics": [*trainer.net.buffers(), *trainer.objective.buffers()],
        **{
            name: [value for state in optimizer.state.values() for value in state.values()]
            for name, optimizer in kept.items()
        },
    }


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("objective", ["supervised", "ssl", "joint"])
def test_a_replay_is_the_step_that_it_recorded(dataset, objective, precision, place):
    """From one state: a replay, another replay, and the same step launched kernel by kernel.

    Compared with what the step changes. A trajectory would not do: a change of 2e-7 in the weights
    moves alphas by 2e-3 to 5e-3 within a dozen steps of Adam.
    """
    trainer = recorded_trainer(dataset, place, objective=objective, precision=precision)
    batches = trainer.alpha_stream.next(), trainer.weight_stream.next()
    parts = parts_of(trainer)
    before = {name: [x.detach().clone() for x in part] for name, part in parts.items()}

    def after(step):
        with torch.no_grad():
            for name, part in parts.items():
                for x, value in zip(part, before[name], strict=True):
                    x.copy_(value)
        step(*batches)
        return {name: [x.detach().double() for x in part] for name, part in parts.items()}

    first, second, launched = map(after, (trainer.graphed, trainer.graphed, trainer.bilevel.step))

    def size(values):
        return sum(float(x.square().sum()) for x in values) ** 0.5

    bound = 1e-3 if precision == "fp32" else 3e-2
    for name in parts:
        change = size(x - y.double() for x, y in zip(first[name], before[name], strict=True))
        assert change > 0, name
        for other in (second, launched):
            apart = size(x - y for x, y in zip(first[name], other[name], strict=True))
            assert apart <= bound * change, name


@pytest.mark.gpu
@needs_gpu
def test_work_goes_on_after_a_capture_that_broke_off(dataset):
    trainer = recorded_trainer(dataset, "cuda", objective="supervised")
    recorder, stream = trainer.graphed._recorder, torch.cuda.current_stream()

    def looks():
        return {"loss": torch.ones(1, device="cuda").sum().item()}

    with pytest.raises(RuntimeError):
        recorder.record(looks)
    assert torch.cuda.current_stream() == stream
    made = torch.rand(1 << 20, device="cuda")
    pools = {
        tuple(segment["segment_pool_id"])
        for segment in torch.cuda.memory_snapshot()
        if segment["address"] <= made.data_ptr() < segment["address"] + segment["total_size"]
    }
    assert pools == {(0, 0)}
    trainer.graphed.reset()
    run(trainer, WARM_UP + 2)
    assert trainer.means.values()
