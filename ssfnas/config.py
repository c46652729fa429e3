"""What each command can be asked for: one typed dataclass a command, every field documented.

A field is a flag (``batch_size`` is ``--batch-size``), a key of a YAML file, and an attribute. The
flags, their help and the checks of their values are all made from what stands here; see
:mod:`ssfnas.commandline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

DARTS_OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
FAIRDARTS_OPERATIONS = DARTS_OPERATIONS[1:]


@dataclass(frozen=True)
class Above:
    """All numbers above ``bound``, as the values of ``only_if``."""

    bound: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, (int, float)) and value > self.bound

    def __str__(self) -> str:
        return f"above {self.bound:g}"


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    only_if: dict[str, tuple[Any, ...] | Above] | None = None,
    required: bool = False,
) -> Any:
    """A dataclass field with its documentation and the values that it may have.

    Args:
        default: the value without a flag; a list is copied for each config.
        help: one sentence for ``--help``.
        choices: the only values allowed, where they are names.
        minimum, maximum: bounds that are allowed themselves.
        above, below: bounds that are not.
        only_if: other fields and the values of them with which this one has a meaning; given as a
            flag without that, it is an error instead of being ignored.
        required: the command cannot run without it.
    """
    metadata = {
        "help": help,
        "choices": tuple(choices) if choices else None,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "below": below,
        "only_if": only_if or {},
        "required": required,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class DataOptions:
    """Which images, and how unevenly distributed."""

    dataset: str = option(
        "cifar10-lt-mini",
        "cifar10-lt-mini (shipped with the package), cifar10, cifar100, an .npz file in MedMNIST's "
        "convention, or an image folder (train/<class>/*, test/<class>/*)",
    )
    data_dir: str = option("data", "folder that torchvision's data sets are downloaded to")
    imbalance_ratio: float | None = option(
        None, "largest class over smallest after long-tailing; absent or 1: as it is", minimum=1
    )
    profile: str = option("exp", "how class sizes fall off", choices=("exp", "step"))
    image_size: int | None = option(
        None, "resize images to this many pixels a side; absent: as they are", minimum=8
    )
    data_seed: int = option(
        0,
        "which images a long-tailed subset keeps (0: the LDAM subset most papers use)",
        minimum=0,
        maximum=2**32 - 1,
    )


@dataclass(kw_only=True)
class RunOptions:
    """Where a run is written, and on what it is computed."""

    out: str | None = option(None, "run directory; absent: runs/<command>-<date>-<time>")
    resume: bool = option(False, "go on with the run that --out holds")
    overwrite: bool = option(False, "replace the run that --out holds")
    seed: int = option(0, "the one seed of everything random", minimum=0)
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    precision: str = option(
        "fp32", "arithmetic of the forward pass", choices=("fp32", "bf16", "fp16")
    )
    deterministic: bool = option(
        False, "the same bits each time on one kind of device and number of threads; slower"
    )
    workers: int = option(
        4, "processes that decode image folders too large to be held in memory", minimum=0
    )
    checkpoint_minutes: float = option(
        10.0, "longest time between checkpoints; each epoch ends with one as well", above=0
    )
    plugins: list[str] = option(
        [], "Python files to import first: they register operations, objectives, losses, ..."
    )
    dry_run: bool = option(
        False, "print the data summary, parameters, predicted memory and time, then stop"
    )


@dataclass(kw_only=True)
class SearchConfig(DataOptions, RunOptions):
    """``python -m ssfnas.search``: find a genotype."""

    strategy: str = option("fairdarts", "how to search", choices=("darts", "fairdarts", "random"))
    objective: str = option(
        "ssl",
        "what to minimise: cross-entropy, Barlow Twins without labels, or both",
        choices=("supervised", "ssl", "joint"),
    )
    order: int = option(
        1,
        "1: first order; 2: second order (unrolled)",
        minimum=1,
        maximum=2,
        only_if={"strategy": ("darts", "fairdarts")},
    )
    epochs: int = option(50, "passes over the half of the data that trains the weights", minimum=1)
    steps: int | None = option(None, "bilevel steps, in place of --epochs", minimum=1)
    batch_size: int = option(128, "images a step, over all processes", minimum=1)
    supernet: str = option("fast", "form of the supernet", choices=("fast", "reference"))
    cuda_graph: str = option(
        "auto",
        "launch a step as one CUDA graph; auto: on a GPU, where nothing forbids it",
        choices=("auto", "on", "off"),
        only_if={"strategy": ("darts", "fairdarts")},
    )
    channels: int = option(16, "channels of the first cell", minimum=1)
    layers: int = option(8, "cells", minimum=1)
    nodes: int = option(4, "intermediate nodes a cell", minimum=1)
    operations: list[str] = option(
        [], "candidate operations; absent: the seven of FairDARTS, or the eight of DARTS"
    )
    weight_lr: float = option(0.005, "first learning rate of the weights (SGD, cosine)", above=0)
    weight_lr_min: float = option(0.001, "last learning rate of the weights", minimum=0)
    weight_momentum: float = option(0.9, "momentum of the weights", minimum=0, below=1)
    weight_decay: float = option(3e-4, "decay of the weights", minimum=0)
    clip: float = option(5.0, "largest norm of the weights' gradient; 0: any", minimum=0)
    alpha_lr: float = option(
        3e-3, "learning rate of alpha (Adam)", above=0, only_if={"strategy": ("darts", "fairdarts")}
    )
    alpha_beta1: float = option(
        0.9,
        "Adam's first beta for alpha",
        minimum=0,
        below=1,
        only_if={"strategy": ("darts", "fairdarts")},
    )
    alpha_weight_decay: float = option(
        1e-3, "decay of alpha", minimum=0, only_if={"strategy": ("darts", "fairdarts")}
    )
    w01: float = option(
        10.0, "weight of the zero-one loss", minimum=0, only_if={"strategy": ("fairdarts",)}
    )
    zero_one: str = option(
        "l2",
        "form of the zero-one loss",
        choices=("l1", "l2"),
        only_if={"strategy": ("fairdarts",)},
    )
    lambd: float = option(
        0.0051,
        "weight of Barlow Twins' off-diagonal terms",
        minimum=0,
        only_if={"objective": ("ssl", "joint")},
    )
    mu: float = option(
        1.0,
        "weight of Barlow Twins beside cross-entropy",
        minimum=0,
        only_if={"objective": ("joint",)},
    )
    projector: list[int] = option(
        [2048, 2048, 2048],
        "widths of the projector's layers",
        minimum=1,
        only_if={"objective": ("ssl", "joint")},
    )
    derive: str = option(
        "threshold",
        "how a genotype is read from the weights",
        choices=("darts", "threshold", "threshold_edge"),
        only_if={"strategy": ("darts", "fairdarts")},
    )
    threshold: float = option(
        0.85,
        "smallest weight of an operation that is kept",
        minimum=0,
        maximum=1,
        only_if={"derive": ("threshold", "threshold_edge")},
    )
    samples: int = option(
        8, "genotypes that the random strategy tries", minimum=1, only_if={"strategy": ("random",)}
    )
    early_stop: str = option(
        "none",
        "stop before the last epoch: when normal cells have too many skip connections, or when the "
        "Hessian's top eigenvalue grows",
        choices=("none", "skip", "hessian"),
        only_if={"strategy": ("darts", "fairdarts")},
    )
    max_skips: int = option(
        2,
        "skip connections in the normal cell at which to stop",
        minimum=1,
        only_if={"early_stop": ("skip",)},
    )
    hessian_window: int = option(
        5,
        "epochs over which the eigenvalue is averaged",
        minimum=1,
        only_if={"early_stop": ("hessian",)},
    )
    hessian_factor: float = option(
        1.3,
        "growth of the eigenvalue over one window at which to stop",
        above=1,
        only_if={"early_stop": ("hessian",)},
    )
    early_stop_after: int = option(
        10,
        "epochs before which nothing stops the search",
        minimum=0,
        only_if={"early_stop": ("skip", "hessian")},
    )
    knn: bool = option(True, "measure nearest-neighbour accuracy of the features each epoch")


@dataclass(kw_only=True)
class DeriveConfig:
    """``python -m ssfnas.derive``: read another genotype from a finished search."""

    run: str = option("", "directory of the search", required=True)
    out: str | None = option(None, "file to write; absent: genotype.json in the run directory")
    epoch: int | None = option(
        None,
        "use the alphas after this epoch; absent: the last, or where early stopping went back to",
        minimum=0,
    )
    derive: str = option("threshold", "the rule", choices=("darts", "threshold", "threshold_edge"))
    threshold: float = option(
        0.85,
        "smallest weight of an operation that is kept",
        minimum=0,
        maximum=1,
        only_if={"derive": ("threshold", "threshold_edge")},
    )
    max_params: int | None = option(
        None, "most parameters of the derived network (weakest operations go first)", minimum=1
    )
    max_flops: int | None = option(
        None, "most multiply-adds of the derived network for one image", minimum=1
    )
    channels: int = option(36, "channels of the network that is counted", minimum=1)
    layers: int = option(20, "cells of the network that is counted", minimum=1)
    plugins: list[str] = option([], "Python files to import first")


@dataclass(kw_only=True)
class RetrainConfig(DataOptions, RunOptions):
    """``python -m ssfnas.retrain``: train the network that a genotype describes."""

    genotype: str | None = option(
        None,
        "genotype.json, a search's run directory, a text of DARTS or FairDARTS, or the name of a "
        "published cell (DARTS_V2, FairDARTS_a ... FairDARTS_g)",
    )
    model: str = option("derived", "derived, or timm:NAME for a baseline from timm")
    channels: int = option(36, "channels of the first cell", minimum=1)
    layers: int = option(20, "cells", minimum=1)
    auxiliary: float = option(
        0.4, "weight of the auxiliary head; 0: none", minimum=0, only_if={"model": ("derived",)}
    )
    drop_path: float = option(
        0.2,
        "probability of dropping a path at the end of training (linear ramp)",
        minimum=0,
        below=1,
        only_if={"model": ("derived",)},
    )
    epochs: int = option(600, "passes over the training images", minimum=1)
    steps: int | None = option(None, "training steps, in place of --epochs", minimum=1)
    batch_size: int = option(96, "images a step, over all processes", minimum=1)
    lr: float = option(0.025, "first learning rate (SGD, cosine)", above=0)
    lr_min: float = option(0.0, "last learning rate", minimum=0)
    warmup_epochs: float = option(0.0, "epochs of linear warm-up", minimum=0)
    momentum: float = option(0.9, "momentum", minimum=0, below=1)
    weight_decay: float = option(5e-4, "decay of the weights", minimum=0)
    clip: float = option(5.0, "largest norm of the gradient; 0: any", minimum=0)
    augment: str = option(
        "autoaugment",
        "views of a training image",
        choices=("none", "crop_flip", "autoaugment", "trivialaugment"),
    )
    cutout: int = option(16, "side of the square that is cut out, in pixels; 0: none", minimum=0)
    mixup: float = option(0.0, "mixup's alpha; 0: none", minimum=0)
    sampling_exponent: float = option(
        1.0,
        "a class is drawn in proportion to its size to this power: 1 as it is, 0.5 square root, "
        "0 every class alike",
        minimum=0,
        maximum=1,
    )
    loss: str = option(
        "logit-adjusted",
        "loss of single-label data (multi-label data train with binary cross-entropy)",
        choices=("ce", "logit-adjusted", "focal", "class-balanced", "ldam"),
    )
    tau: float = option(
        1.0, "strength of the logit adjustment", minimum=0, only_if={"loss": ("logit-adjusted",)}
    )
    gamma: float = option(2.0, "focal loss' exponent", minimum=0, only_if={"loss": ("focal",)})
    beta: float = option(
        0.9999,
        "class-balanced weights' beta",
        minimum=0,
        below=1,
        only_if={"loss": ("class-balanced", "ldam")},
    )
    max_margin: float = option(0.5, "LDAM's largest margin", above=0, only_if={"loss": ("ldam",)})
    scale: float = option(30.0, "LDAM's scale", above=0, only_if={"loss": ("ldam",)})
    drw: float | None = option(
        None,
        "share of the epochs after which classes are re-weighted (DRW); absent: 0.8 with ldam, "
        "never otherwise",
        minimum=0,
        maximum=1,
        only_if={"loss": ("ce", "focal", "ldam")},
    )
    label_smoothing: float = option(
        0.0, "label smoothing", minimum=0, below=1, only_if={"loss": ("ce", "logit-adjusted")}
    )
    pretrain_epochs: int = option(
        0, "epochs of Barlow Twins on the same images before the labels are used", minimum=0
    )
    pretrain_batch_size: int = option(
        256, "images a step of the pre-training", minimum=2, only_if={"pretrain_epochs": Above(0)}
    )
    pretrain_lr: float = option(
        0.3,
        "first learning rate of the pre-training (LARS)",
        above=0,
        only_if={"pretrain_epochs": Above(0)},
    )
    pretrain_weight_decay: float = option(
        1e-4, "decay of the pre-training", minimum=0, only_if={"pretrain_epochs": Above(0)}
    )
    projector: list[int] = option(
        [2048, 2048, 2048],
        "widths of the projector's layers",
        minimum=1,
        only_if={"pretrain_epochs": Above(0)},
    )
    lambd: float = option(
        0.0051,
        "weight of Barlow Twins' off-diagonal terms",
        minimum=0,
        only_if={"pretrain_epochs": Above(0)},
    )
    bt_mixup: float = option(
        0.0,
        "weight s of Mixed Barlow Twins' term (4 in its paper); 0: none",
        minimum=0,
        only_if={"pretrain_epochs": Above(0)},
    )
    finetune: str = option(
        "all",
        "what is trained after the pre-training",
        choices=("all", "classifier"),
        only_if={"pretrain_epochs": Above(0)},
    )
    crt_epochs: int = option(
        0, "epochs of classifier re-training on the frozen backbone at the end", minimum=0
    )
    ema: float = option(0.0, "decay of the weights' moving average; 0: none", minimum=0, below=1)
    evaluate_every: int = option(1, "epochs between evaluations", minimum=1)


@dataclass(kw_only=True)
class EvaluateConfig:
    """``python -m ssfnas.evaluate``: measure a trained network."""

    run: str = option("", "directory of the retraining", required=True)
    which: str = option(
        "last", "weights to measure; of ema in evaluation-ema.json", choices=("last", "ema")
    )
    dataset: str | None = option(
        None,
        "another data set of the same classes, measured in evaluation-on-NAME.json; absent: the "
        "run's own",
    )
    batch_size: int = option(256, "images a batch", minimum=1)
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    precision: str = option(
        "fp32", "arithmetic of the forward pass", choices=("fp32", "bf16", "fp16")
    )
    thirds: bool = option(False, "group classes in thirds instead of many / medium / few")
    probe: bool = option(
        False, "also fit linear probes on the frozen features, long-tailed and balanced"
    )
    plugins: list[str] = option([], "Python files to import first")


@dataclass(kw_only=True)
class ReportConfig:
    """``python -m ssfnas.report``: one HTML page about a run, or several beside each other."""

    run: list[str] = option([], "run directories", required=True)
    out: str | None = option(
        None, "file to write; absent: report.html in the (first) run directory"
    )
