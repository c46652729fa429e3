"""What each command can be asked for: one typed dataclass a command, every field documented.

Here stand the options that a command always reads; those of what can be chosen (strategies,
objectives, losses, ...) stand beside it in :mod:`ssfnas.declarations`. Flags, help and checks are
all made from these declarations; see :mod:`ssfnas.commandline`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ssfnas.declarations.derivations import (
    DERIVATIONS,
    PERTURBATION,
    DerivationOptions,
    PerturbationOptions,
)
from ssfnas.declarations.early_stopping import EarlyStoppingOptions
from ssfnas.declarations.launching import Launching
from ssfnas.declarations.long_tail import LONG_TAIL, Profile
from ssfnas.declarations.losses import LossOptions
from ssfnas.declarations.mixing import MIXUP, MixupEnd
from ssfnas.declarations.objectives import ObjectiveOptions
from ssfnas.declarations.stages import StageOptions
from ssfnas.declarations.strategies import StrategyOptions
from ssfnas.errors import RequestError, did_you_mean, shown
from ssfnas.options import OptionValue, OptionValueError, option, option_values
from ssfnas.yaml_files import FileValues

Config = TypeVar("Config")


@dataclass(kw_only=True)
class PluginOptions:
    """Code of your own.

    Args:
        more: values of the options that plugins declare; each reads as an attribute as well.
    """

    plugins: list[str] = option(
        [], "Python files to import first: they register operations, objectives, losses, ..."
    )
    more: InitVar[Mapping[str, Any] | None] = None

    def __post_init__(self, more: Mapping[str, Any] | None) -> None:
        self.__dict__["more"] = dict(more or {})

    if not TYPE_CHECKING:  # a name that is no field of ours stays an error to mypy

        def __getattr__(self, name: str) -> Any:
            more = self.__dict__.get("more", {})
            if name in more:
                return more[name]
            raise AttributeError(f"{type(self).__name__} has no option {name!r}")


@dataclass(kw_only=True)
class DataOptions(Profile):
    """Which images, and how unevenly distributed."""

    dataset: str = option(
        "cifar10-lt-mini",
        "cifar10-lt-mini (shipped with the package), cifar10, cifar100, an .npz file in MedMNIST's "
        "convention, or an image folder (train/<class>/*, test/<class>/*)",
    )
    data_dir: str = option("data", "folder that torchvision's data sets are downloaded to")
    imbalance_ratio: float | None = option(
        None,
        "largest class over smallest after long-tailing; absent or 1: as it is",
        minimum=1,
        turns_on=LONG_TAIL,
        off=(None, 1),
    )
    image_size: int | None = option(
        None,
        "resize images to this many pixels a side; absent: as they are, except that a search takes "
        "those of more than 80 pixels at 80",
        minimum=8,
    )
    background: str = option(
        "white",
        "what transparent pixels of image files are composed on",
        choices=("white", "gray", "black"),
    )
    skip_corrupt: int = option(
        0,
        "leave out at most so many image files that cannot be read; above 0 every file is decoded "
        "once beforehand",
        minimum=0,
    )
    data_seed: int = option(
        0,
        "which images a long-tailed subset keeps (0: the LDAM subset most papers use), and which "
        "are held out",
        minimum=0,
        maximum=2**32 - 1,
    )
    validation_share: float = option(
        0.0,
        "share of each class that is held out of the training part to choose on, where the data "
        "have no validation part",
        minimum=0,
        below=0.5,
    )


@dataclass(kw_only=True)
class RunOptions(PluginOptions):
    """Where a run is written, and on what it is computed."""

    out: str | None = option(None, "run directory; absent: runs/<command>-<date>-<time>")
    resume: bool = option(False, "go on with the run that --out holds")
    overwrite: bool = option(False, "replace the run that --out holds")
    seed: int = option(0, "the one seed of everything random", minimum=0)
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    threads: int | None = option(
        None,
        "threads that compute; absent: as many as the process may use CPUs (python -m ssfnas.env)",
        minimum=1,
    )
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
    dry_run: bool = option(
        False, "print the data summary, parameters, predicted memory and time, then stop"
    )


@dataclass(kw_only=True)
class SearchConfig(
    StrategyOptions,
    ObjectiveOptions,
    DerivationOptions,
    EarlyStoppingOptions,
    DataOptions,
    RunOptions,
):
    """``python -m ssfnas.search``: find a genotype."""

    epochs: int = option(
        50,
        "passes over the half of the data that trains the weights; over few images more unless it "
        "is given",
        minimum=1,
        only_if={"steps": (None,)},
    )
    steps: int | None = option(None, "bilevel steps, in place of --epochs", minimum=1)
    batch_size: int = option(
        128,
        "images a step, over all processes; of few images fewer are taken unless it is given",
        minimum=1,
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
    alpha_sampling_exponent: float = option(
        1.0,
        "in the half that alpha is trained on (or samples are scored on) a class is drawn in "
        "proportion to its size to this power: 1 as it is, 0 every class alike; below 1 labels are "
        "used",
        minimum=0,
        maximum=1,
        single_label=True,
    )


@dataclass(kw_only=True)
class DeriveConfig(DerivationOptions, PerturbationOptions, PluginOptions):
    """``python -m ssfnas.derive``: read another genotype from a finished search."""

    run: str = option("", "directory of the search", required=True)
    derive: str = option(
        "threshold",
        "how a genotype is read from the weights; perturbation: by what the removal of each "
        "operation costs the supernet",
        choices=(PERTURBATION,),
        names=DERIVATIONS,
    )
    out: str | None = option(
        None,
        "file to write; absent: genotype.json in the run directory where the search left none, "
        "else derived/<rule>/genotype.json in it",
    )
    epoch: int | None = option(
        None,
        "use the alphas after this epoch; absent: the last, or where early stopping went back to",
        minimum=0,
    )
    max_skips: int | None = option(
        None,
        "most skip connections of the normal cell: while there are more, the weakest is taken out "
        "and the rule is asked again",
        minimum=0,
    )
    max_params: int | None = option(
        None, "most parameters of the derived network (weakest operations go first)", minimum=1
    )
    max_flops: int | None = option(
        None, "most multiply-adds of the derived network for one image", minimum=1
    )
    channels: int = option(36, "channels of the network that is counted", minimum=1)
    layers: int = option(20, "cells of the network that is counted", minimum=1)


_DERIVED: dict[str, tuple[Any, ...]] = {"model": ("derived",)}


@dataclass(kw_only=True)
class RetrainConfig(LossOptions, StageOptions, MixupEnd, Launching, DataOptions, RunOptions):
    """``python -m ssfnas.retrain``: train the network that a genotype describes."""

    genotype: str | None = option(
        None,
        "genotype.json, a search's run directory, a text of DARTS or FairDARTS, or the name of a "
        "published cell (DARTS_V2, FairDARTS_a ... FairDARTS_g)",
        only_if=_DERIVED,
    )
    model: str = option("derived", "derived, or timm:NAME for a baseline from timm")
    network: str = option(
        "fast",
        "form of a derived network; both compute the same",
        choices=("fast", "reference"),
        only_if=_DERIVED,
    )
    channels: int = option(36, "channels of the first cell", minimum=1, only_if=_DERIVED)
    layers: int = option(20, "cells", minimum=1, only_if=_DERIVED)
    auxiliary: float = option(
        0.4, "weight of the auxiliary head; 0: none", minimum=0, only_if=_DERIVED
    )
    drop_path: float = option(
        0.2,
        "probability of dropping a path at the end of training (linear ramp)",
        minimum=0,
        below=1,
        only_if=_DERIVED,
    )
    epochs: int = option(
        600, "passes over the training images", minimum=1, only_if={"steps": (None,)}
    )
    steps: int | None = option(None, "training steps, in place of --epochs", minimum=1)
    batch_size: int = option(
        96,
        "images a step, over all processes; of few images fewer are taken unless it is given",
        minimum=1,
    )
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
        extensible=True,
    )
    cutout: int | None = option(
        None,
        "side of the square that is cut out, in pixels; 0: none; absent: half a side, at most 16",
        minimum=0,
    )
    mixup: float = option(
        0.0, "mixup's alpha; 0: none", minimum=0, turns_on=MIXUP, single_label=True
    )
    sampling_exponent: float = option(
        1.0,
        "a class is drawn in proportion to its size to this power: 1 as it is, 0.5 square root, "
        "0 every class alike",
        minimum=0,
        maximum=1,
        single_label=True,
    )
    ema: float = option(
        0.0,
        "largest decay of the weights' moving average; warms up from 0 in each phase; 0: none",
        minimum=0,
        below=1,
    )
    evaluate_every: int = option(
        10,
        "epochs from one evaluation to the next, on the validation part (which chooses among them) "
        "and the test part; the last epoch of a stage has one in any case",
        minimum=1,
    )


@dataclass(kw_only=True)
class TrainedOptions(PluginOptions):
    """Whose network."""

    run: str = option("", "directory of the retraining", required=True)


@dataclass(kw_only=True)
class InferenceOptions(TrainedOptions):
    """How a trained network computes."""

    batch_size: int = option(
        256, "images a batch at most; of more than 90 pixels a side fewer are taken", minimum=1
    )
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    threads: int | None = option(
        None,
        "threads that compute; absent: as many as the process may use CPUs (python -m ssfnas.env)",
        minimum=1,
    )
    precision: str = option(
        "fp32", "arithmetic of the forward pass", choices=("fp32", "bf16", "fp16")
    )


@dataclass(kw_only=True)
class EvaluateConfig(InferenceOptions):
    """``python -m ssfnas.evaluate``: measure a trained network."""

    which: str = option(
        "last",
        "weights to measure: the last, those of the epoch that the validation part chose, or the "
        "moving average; others than the last in evaluation-best.json, evaluation-ema.json",
        choices=("last", "best", "ema"),
    )
    dataset: str | None = option(
        None,
        "another data set with classes of the same names, measured in evaluation-on-NAME.json; "
        "absent: the run's own",
    )
    data_dir: str | None = option(
        None, "folder that torchvision's data sets are downloaded to; absent: the run's"
    )
    thirds: bool = option(
        False, "group classes in thirds instead of many / medium / few", single_label=True
    )
    probe: bool = option(
        False,
        "also fit linear probes on the frozen features, long-tailed and balanced",
        single_label=True,
    )


_GRAPH: dict[str, tuple[Any, ...]] = {"format": ("onnx", "torch-export")}


@dataclass(kw_only=True)
class ExportConfig(TrainedOptions):
    """``python -m ssfnas.export``: a trained network in a form that others load."""

    format: str = option(
        "onnx",
        "onnx: one file for onnxruntime and its like; torch-export: one .pt2 file for torch alone; "
        "timm: a folder of config.json and model.safetensors for timm and the Hugging Face Hub",
        choices=("onnx", "torch-export", "timm"),
    )
    out: str | None = option(
        None, "file, or folder of timm; absent: export/model.onnx, .pt2 or model/ in the run"
    )
    overwrite: bool = option(False, "replace what --out holds")
    which: str = option(
        "last",
        "weights to export: the last, those of the epoch that the validation part chose, or the "
        "moving average",
        choices=("last", "best", "ema"),
    )
    pixels: str = option(
        "float",
        "what the network takes: floats in 0 .. 1, [N, C, H, W]; the same, normalized by the "
        "training part's mean and deviation; or uint8 in 0 .. 255, [N, H, W, C]",
        choices=("float", "normalized", "uint8"),
        only_if=_GRAPH,
    )
    output: str = option(
        "logits",
        "what it gives; probabilities are a softmax, or of images with several labels a sigmoid",
        choices=("logits", "probabilities"),
        only_if=_GRAPH,
    )
    opset: int = option(
        18,
        "version of ONNX's operators; 18 is read by onnxruntime from 1.18 on",
        minimum=18,
        only_if={"format": ("onnx",)},
    )


@dataclass(kw_only=True)
class PredictConfig(InferenceOptions):
    """``python -m ssfnas.predict``: use a trained network on new images."""

    images: list[str] = option(
        [],
        "image files, folders of images at any depth, or .npz files; after -- also names that "
        "begin with a dash",
        required=True,
        positional=True,
    )
    out: str | None = option(
        None,
        "file to write all predictions to, in the format that its ending says; absent: none",
        endings=(".csv", ".json"),
    )
    report: str | None = option(
        None,
        "also write a page that shows images with their predictions: FILE.html; without a name "
        "predictions.html in the run directory",
        endings=(".html",),
        alone="auto",
    )
    top_k: int = option(
        1, "classes to name for each image, the most probable first", minimum=1, single_label=True
    )
    which: str = option(
        "last",
        "weights to use: the last, those of the epoch that the validation part chose, or the "
        "moving average",
        choices=("last", "best", "ema"),
    )
    correction: str = option(
        "none",
        "correction for unequal classes, of the strength that the validation part chose",
        choices=("none", "logit_adjustment", "tau_normalization"),
        single_label=True,
    )
    part: str | None = option(
        None,
        "which images of an .npz file; absent: images, else test_images, val_images or "
        "train_images",
        choices=("images", "test", "val", "train"),
    )
    background: str | None = option(
        None,
        "what transparent pixels are composed on; absent: as in the run",
        choices=("white", "gray", "black"),
    )
    skip_corrupt: int = option(
        0,
        "go on where at most so many image files cannot be read, and list them without a class",
        minimum=0,
    )
    workers: int = option(4, "processes that decode image files, at most one a core", minimum=0)


@dataclass(kw_only=True)
class ReportConfig:
    """``python -m ssfnas.report``: one HTML page about a run, or several beside each other."""

    run: list[str] = option([], "run directories", required=True)
    out: str | None = option(
        None, "file to write; absent: report.html in the (first) run directory"
    )


def values_of(config: Any) -> dict[str, Any]:
    """All values of a config, those of plugins' options included."""
    return {**dataclasses.asdict(config), **getattr(config, "more", {})}


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where the values of a config come from.

    Attributes:
        asked: names of the options that somebody chose; the others may be fitted to the data.
        preset: the preset that the command took by itself; None: it took none.
    """

    asked: frozenset[str]
    preset: str | None = None


def origin_of(config: Any) -> Origin:
    """Where a config's values come from; of one made in Python all but the defaults are chosen."""
    if (known := vars(config).get("origin")) is not None:
        return known
    options, values = option_values(type(config)), values_of(config)
    return Origin(frozenset(n for n, o in options.items() if values.get(n) != o.default))


def set_origin(config: Any, origin: Origin) -> None:
    """Note where the values of a config come from."""
    vars(config)["origin"] = origin


def make_config(
    config_class: type[Config], values: Mapping[str, Any], options: Mapping[str, OptionValue]
) -> Config:
    """A config of checked values; what is no field of the class goes to ``more``."""
    own = {entry.name for entry in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    more = {name: option.default for name, option in options.items() if name not in own}
    more |= {name: value for name, value in values.items() if name not in own}
    fields = {name: value for name, value in values.items() if name in own}
    return config_class(**fields, **({"more": more} if more else {}))


def check_values(config: Any) -> None:
    """Hold the values of a config that was made in Python to what its flags would be held to.

    Names that plugins may register are left to the registries; what plugins' options are not given
    becomes their default. Plugins are imported already.

    Raises:
        RequestError: a value has the wrong type or is out of bounds; names class and field.
    """
    values = {n: list(v) if isinstance(v, tuple) else v for n, v in values_of(config).items()}
    options = option_values(type(config), extended=True)
    checked = read_values(options, values, type(config).__name__)
    config.more = make_config(type(config), checked, options).more


def read_values(
    options: Mapping[str, OptionValue],
    values: Mapping[str, Any],
    source: str,
    *,
    lenient: bool = False,
) -> dict[str, Any]:
    """Checked values of fields from a YAML mapping, keys with dashes or underscores.

    Args:
        options: the fields there are; see :func:`~ssfnas.options.option_values`.
        values: what the file holds, without keys that are no fields.
        source: the file, for messages; where the values know their lines, these are said too.
        lenient: keep keys that are no fields, as those of plugins that are not imported.

    Raises:
        RequestError: a key is no field, stands twice, or its value does not fit; names ``source``.
    """
    checked: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        place = values.place(key) if isinstance(values, FileValues) else source
        if name not in options and not lenient:
            hint = did_you_mean(name, options) or ": leave it out"
            raise RequestError(f"{place}: unknown key {shown(key)}{hint}")
        if name in checked:
            raise RequestError(f"{place}: {name} stands there twice: leave one out")
        try:
            checked[name] = options[name].from_yaml(value) if name in options else value
        except OptionValueError as problem:
            raise RequestError(f"{place}: {name}: {problem}") from None
    return checked
