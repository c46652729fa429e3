"""Recorded steps of a retraining: the same trajectory, no look at numbers on the host."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from image_files import write_npz
from recorders import NoLooking, Repeater, Tape, Unable
from tiny_runs import tiny_retrain

from ssfnas import ops
from ssfnas.data import load_data
from ssfnas.errors import NumericalError, RequestError
from ssfnas.runtime.distributed import World
from ssfnas.spaces import Genotype
from ssfnas.training.graphed_step import WARM_UP, CudaGraphRecorder, why_not_graphed
from ssfnas.training.retrain_trainer import RetrainTrainer

# As a number and as a float32 tensor the same.
RATES = {"lr": 0.03125, "lr_min": 0.03125}
# Classes are re-weighted from step 6 of 20 on, paths are dropped from step 10 on.
EVERYTHING = {
    "auxiliary": 0.4,
    "drop_path": 0.3,
    "mixup": 0.4,
    "loss": "ldam",
    "drw": 0.3,
    "ema": 0.75,
    "clip": 0.5,
}
PRETRAINING = {
    "pretrain_epochs": 1,
    "pretrain_batch_size": 8,
    "projector": [8, 8],
    "bt_mixup": 4.0,
    "epochs": 1,
}
STAGES = {
    "everything": EVERYTHING,
    "balanced": {"loss": "class-balanced", "drop_path": 0.0},
    "classifier": {"crt_epochs": 1, "epochs": 1, "ema": 0.75},
    "pretraining": {**PRETRAINING, "finetune": "classifier"},
}


@pytest.fixture
def dataset(tmp_path):
    return write_npz(tmp_path / "images.npz", (40, 24, 10))


def trainer_of(
    dataset, recorder=None, dtype=torch.float64, place="cpu", **changes
) -> RetrainTrainer:
    """``place``: the device; the config's own ``device`` is for commands, and is not looked at."""
    config = tiny_retrain(dataset, **{**RATES, **changes})
    device = torch.device(place)
    world = World(rank=0, size=1, device=device, group=None)
    data = load_data(config).to(device)
    return RetrainTrainer(config, data, Genotype.load("FairDARTS_a"), world, dtype, recorder)


def parts_of(trainer) -> dict[str, list[torch.Tensor]]:
    """What steps change, where it is in memory."""
    phases = trainer.phases
    networks = [trainer.net, *(p.projector for p in phases if hasattr(p, "projector"))]
    states = [state for p in phases for state in p.updater.optimizer.state.values()]
    parts = {
        "weights": [x for net in networks for x in net.parameters()],
        "statistics": [x for net in networks for x in net.buffers()],
        "momentum": [x for state in states for x in state.values() if x is not None],
        "average": [] if trainer.average is None else [*trainer.average.state_dict().values()],
    }
    return {name: [x.detach() for x in part] for name, part in parts.items()}


def state_of(trainer) -> list[torch.Tensor]:
    return [x.clone() for part in parts_of(trainer).values() for x in part]


def run(trainer, steps):
    for _ in range(steps):
        trainer.run_step()


def assert_alike(found, expected, bound):
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=bound, atol=bound)


@pytest.mark.parametrize("stages", sorted(STAGES))
def test_recorded_steps_are_the_steps(dataset, stages):
    recorder, changes = Repeater(), STAGES[stages]
    plain, recorded = trainer_of(dataset, **changes), trainer_of(dataset, recorder, **changes)
    assert all(phase.graphed is None for phase in plain.phases)
    # The schedule of a pre-training is a float32 number where it is recorded.
    bound = 1e-6 if stages == "pretraining" else 1e-11
    while not plain.finished:
        plain.run_step()
        recorded.run_step()
        if plain.epoch_ended:
            lines = [trainer.end_epoch() for trainer in (recorded, plain)]
            json.dumps(lines)
            found, expected = ({**line, "phase": 0} for line in lines)
            assert found == pytest.approx(expected, rel=bound)
    assert recorder.recorded == len(recorded.phases)
    assert_alike(state_of(recorded), state_of(plain), bound)


@pytest.mark.parametrize("stages", sorted(STAGES))
def test_nothing_that_changes_from_step_to_step_is_recorded(dataset, stages):
    changes = {**STAGES[stages], "cuda_graph": "on"}
    plain, taped = (trainer_of(dataset, recorder, **changes) for recorder in (Repeater(), Tape()))
    with ops.backend("torch"):
        run(plain, plain.total_steps)
        run(taped, plain.total_steps)
    assert_alike(state_of(taped), state_of(plain), bound=1e-11)


def test_schedule_reaches_a_recorded_step(dataset):
    changes = {"lr": 0.05, "lr_min": 0.0, "warmup_epochs": 0.5}
    plain, recorded = trainer_of(dataset, **changes), trainer_of(dataset, Repeater(), **changes)
    run(plain, 15)
    run(recorded, 15)
    rates = [t.phases[0].updater.optimizer.param_groups[0]["lr"] for t in (recorded, plain)]
    assert float(rates[0]) == pytest.approx(rates[1], rel=1e-6)
    assert float(rates[0]) < 0.02
    assert_alike(state_of(recorded), state_of(plain), bound=1e-6)


@pytest.mark.parametrize("stages", sorted(STAGES))
def test_what_a_graph_reads_and_writes_stays_where_it_is(dataset, stages):
    trainer = trainer_of(dataset, Repeater(), **STAGES[stages])
    for phase in trainer.phases:
        trainer.run_step()

        def places(phase=phase):
            tensors = [x for part in parts_of(trainer).values() for x in part]
            groups = phase.updater.optimizer.param_groups
            return [x.data_ptr() for x in (*tensors, *(group["lr"] for group in groups))]

        before = places()
        for _ in range(phase.total_steps - 1):
            trainer.run_step()
            trainer.means.values()
        assert places() == before


@pytest.mark.parametrize("stages", sorted(STAGES))
def test_no_number_is_looked_at_within_a_step(dataset, stages):
    trainer = trainer_of(dataset, Repeater(), **STAGES[stages])
    for phase in trainer.phases:
        trainer.run_step()
        inputs = phase.inputs(1)
        with ops.backend("torch"), NoLooking():
            phase.graphed(*inputs)
        run(trainer, phase.total_steps - 1)


@pytest.mark.parametrize("changes", [{}, PRETRAINING])
def test_the_plain_step_looks(dataset, changes):
    phase = trainer_of(dataset, **changes).phases[0]
    inputs = phase.inputs(0)
    looks = pytest.raises(AssertionError, match=r"nonzero|_local_scalar")
    with ops.backend("torch"), looks, NoLooking():
        phase.update(*inputs)


@pytest.mark.parametrize("stages", ["everything", "pretraining"])
@pytest.mark.parametrize("stopped", [5, 12])
def test_resumed_steps_are_the_steps_to_the_bit(dataset, stages, stopped):
    changes = {**STAGES[stages], "lr": 0.05, "lr_min": 0.0}
    first = trainer_of(dataset, Repeater(), torch.float32, **changes)
    run(first, stopped)
    kept = copy.deepcopy(first.state_dict())
    recorder = Repeater()
    second = trainer_of(dataset, recorder, torch.float32, **changes)
    run(second, WARM_UP + 1)
    assert recorder.recorded == 1
    second.load_state_dict(kept)
    run(first, 20 - stopped)
    run(second, 20 - stopped)
    assert recorder.recorded == (2 if stages == "everything" or stopped > 10 else 3)
    for x, y in zip(state_of(second), state_of(first), strict=True):
        assert torch.equal(x, y)
    assert second.means.values() == first.means.values()


@pytest.mark.parametrize("recorded_first", [False, True])
def test_a_run_goes_on_with_the_other_kind_of_step(dataset, recorded_first):
    recorders = (Repeater(), None) if recorded_first else (None, Repeater())
    first, second = (trainer_of(dataset, recorder, **EVERYTHING) for recorder in recorders)
    straight = trainer_of(dataset, **EVERYTHING)
    run(first, 5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    (group,) = second.phases[0].updater.optimizer.param_groups
    assert isinstance(group["lr"], torch.Tensor) is not recorded_first
    run(second, 8)
    run(straight, 13)
    assert_alike(state_of(second), state_of(straight), bound=1e-11)


def spoil(trainer, monkeypatch):
    """Make the next batch of the first phase one of infinities."""
    stream = trainer.phases[0].stream
    draw, spoiled = stream.next, iter([True])

    def drawn():
        batch = draw()
        if not next(spoiled, False):
            return batch
        return dataclasses.replace(batch, views=tuple(view / 0 for view in batch.views))

    monkeypatch.setattr(stream, "next", drawn)


def test_an_update_of_a_loss_that_is_not_finite_is_left_out(dataset, monkeypatch):
    trainer = trainer_of(dataset, Repeater())
    run(trainer, WARM_UP + 1)
    spoil(trainer, monkeypatch)
    before = [x.clone() for x in parts_of(trainer)["weights"]]
    trainer.run_step()
    assert all(torch.equal(x, y) for x, y in zip(before, parts_of(trainer)["weights"], strict=True))
    with pytest.raises(NumericalError, match=r"^the term train/loss is not finite$"):
        trainer.state_dict()
    with pytest.raises(NumericalError, match=r"train/loss .* in one of the last 20 steps"):
        run(trainer, 10)
    assert trainer.step == trainer.phases[0].steps_per_epoch


def test_an_auxiliary_loss_that_is_not_finite_is_seen_in_the_loss(dataset):
    trainer = trainer_of(dataset, Repeater(), auxiliary=0.4)
    run(trainer, WARM_UP + 1)
    with torch.no_grad():
        trainer.net.auxiliary_head.classifier.bias[0] = float("nan")
    before = [x.clone() for x in parts_of(trainer)["weights"]]
    trainer.run_step()
    for x, y in zip(before, parts_of(trainer)["weights"], strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(NumericalError, match="train/loss"):
        trainer.state_dict()


def test_a_pretraining_that_was_spoiled_is_never_saved(dataset, monkeypatch):
    trainer = trainer_of(dataset, Repeater(), **PRETRAINING)
    run(trainer, WARM_UP + 1)
    spoil(trainer, monkeypatch)
    trainer.run_step()
    with pytest.raises(NumericalError, match="pretrain/loss"):
        trainer.state_dict()
    with pytest.raises(NumericalError, match=r"pretrain/loss.* in one of the last 20 steps"):
        run(trainer, 10)


@pytest.mark.parametrize("stages", ["everything", "pretraining"])
def test_a_step_that_cannot_be_recorded_is_computed_as_ever(dataset, stages):
    plain, failed = (trainer_of(dataset, r, **STAGES[stages]) for r in (Repeater(), Unable()))
    with pytest.warns(UserWarning, match="kernel by kernel: operation not permitted") as warned:
        run(failed, 20)
    run(plain, 20)
    told = sum("kernel by kernel" in str(each.message) for each in warned)
    assert told == len(failed.phases)
    assert_alike(state_of(failed), state_of(plain), bound=1e-11)


def test_a_step_that_has_to_be_recorded_and_cannot_is_an_error(dataset):
    trainer = trainer_of(dataset, Unable(), cuda_graph="on")
    run(trainer, WARM_UP)
    with pytest.raises(RequestError, match=r"--cuda-graph on: .*not permitted.*; use auto or off$"):
        trainer.run_step()
    with pytest.raises(RequestError, match="--cuda-graph on: there is no CUDA device"):
        trainer_of(dataset, cuda_graph="on")


@pytest.mark.parametrize(
    ("device", "size", "changes", "reason"),
    [
        ("cuda", 1, {}, None),
        ("cuda", 1, {"precision": "bf16", "cuda_graph": "on"}, None),
        ("cuda", 1, {"cuda_graph": "off"}, "--cuda-graph off"),
        ("cpu", 1, {}, "no CUDA device"),
        ("cuda", 2, {}, "2 processes"),
        ("cuda", 1, {"precision": "fp16"}, "fp16"),
        ("cuda", 1, {"deterministic": True}, "--deterministic"),
    ],
)
def test_what_forbids_a_graph_has_a_reason(device, size, changes, reason):
    world = World(rank=0, size=size, device=torch.device(device), group=None)
    found = why_not_graphed(tiny_retrain("images.npz", **changes), world)
    assert (found is None) if reason is None else (reason in found)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


@pytest.mark.parametrize("place", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stages", ["everything", "pretraining"])
def test_a_replay_is_the_step_that_it_recorded(dataset, stages, precision, place):
    """From one state: a replay, another replay, and the same step launched kernel by kernel."""
    changes = {**STAGES[stages], "precision": precision}
    if place == "cpu":
        trainer = trainer_of(dataset, Repeater(), torch.float32, **changes)
    else:
        place = torch.device("cuda", torch.cuda.current_device())
        changes |= {"cuda_graph": "on", "channels": 16}
        recorder = CudaGraphRecorder(place)
        trainer = trainer_of(dataset, recorder, torch.float32, place, **changes)
    run(trainer, WARM_UP + 1)
    phase, parts = trainer.phases[0], parts_of(trainer)
    # Late enough for paths to be dropped and classes to be re-weighted.
    inputs = phase.inputs(phase.total_steps - 1)
    before = {name: [x.clone() for x in part] for name, part in parts.items()}

    def after(step):
        for name, part in parts.items():
            for x, value in zip(part, before[name], strict=True):
                x.copy_(value)
        step(*inputs)
        return {name: [x.double() for x in part] for name, part in parts.items()}

    first, second, launched = map(after, (phase.graphed, phase.graphed, phase.update))

    def size(values):
        return sum(float(x.square().sum()) for x in values) ** 0.5

    bound = 1e-3 if precision == "fp32" else 3e-2
    for name, part in parts.items():
        change = size(x - y.double() for x, y in zip(first[name], before[name], strict=True))
        assert change > 0 or not part, name
        for other in (second, launched):
            apart = size(x - y for x, y in zip(first[name], other[name], strict=True))
            assert apart <= bound * change, name


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("stages", sorted(STAGES))
def test_whole_retrainings_are_captured(dataset, stages):
    """Drawn factors, re-weighting and evaluations between steps: no step falls back to kernels."""
    place = torch.device("cuda", torch.cuda.current_device())
    changes = {**STAGES[stages], "cuda_graph": "on"}
    trainer = trainer_of(dataset, CudaGraphRecorder(place), torch.float32, place, **changes)
    while not trainer.finished:
        trainer.run_step()
        if trainer.epoch_ended:
            json.dumps(trainer.end_epoch())
    assert all(bool(x.isfinite().all()) for x in state_of(trainer))
