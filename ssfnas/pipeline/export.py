"""A run's network, written in a form that others load."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ssfnas import __version__
from ssfnas.atomic_files import write_atomically, write_problem
from ssfnas.config import ExportConfig
from ssfnas.errors import RequestError
from ssfnas.exports.architecture import ARCHITECTURE, describe
from ssfnas.exports.checks import Agreement, check
from ssfnas.exports.model_folder import FILES, ModelFolder, is_model_folder
from ssfnas.exports.network_card import NetworkCard
from ssfnas.exports.onnx_file import OnnxNetwork, check_packages, onnx_bytes
from ssfnas.exports.plain_network import (
    BATCH_NAME,
    BYTES,
    FLOAT,
    INPUT_NAME,
    LOGITS,
    NORMALIZED,
    PlainNetwork,
)
from ssfnas.exports.torch_program import loaded_program, program_bytes
from ssfnas.pipeline.run import Run
from ssfnas.spaces import ReferenceDerivedNetwork, count_parameters

_ENDINGS = {"onnx": ".onnx", "torch-export": ".pt2", "timm": ""}

Lines = Iterator[tuple[str, str]]


def export_network(run: Run, config: ExportConfig) -> Lines:
    """Write what ``config`` asks for.

    Nothing is written before it was compared with the network at two sizes of batches.

    Yields:
        (name, what to say) of each line that the command prints.

    Raises:
        RequestError: the run has no network, a package is missing, or the place is taken.
        NumericalError: what was made does not compute what the network does.
    """
    run.require_network(config.which)
    if config.format == "onnx":
        check_packages()
    out = _place(run, config)
    net = run.network(config.which)
    if isinstance(net, ReferenceDerivedNetwork):
        net.auxiliary_head = None  # it only helps training
    card = network_card(run, config.which)
    if config.format == "timm":
        yield from _write_folder(run, config, net, card, out)
    else:
        yield from _write_graph(config, net, card, out)


def network_card(run: Run, which: str) -> NetworkCard:
    """What is known of a run's network and its data.

    Args:
        run: a retraining.
        which: of its weights; thresholds are those that were chosen for them.
    """
    name = "evaluation.json" if which == "last" else f"evaluation-{which}.json"
    there = (run.path / name).is_file()
    choices = run.read_json(name).get("choices", {}) if there else {}
    thresholds = choices.get("thresholds", {}).get("chosen", {}).get("probability")
    return NetworkCard(
        data=dataclasses.replace(run.data_card, skipped=()),  # paths are the run's own matter
        background=run.config.background,
        model=run.config.model,
        weights=which,
        version=str(run.environment.get("ssfnas") or __version__),
        thresholds=None if thresholds is None else tuple(thresholds),
    )


def _place(run: Run, config: ExportConfig) -> Path:
    """Where to write, which is free or may be overwritten."""
    stem = "model" if config.which == "last" else f"model_{config.which}"
    ending = _ENDINGS[config.format]
    out = run.path / "export" / f"{stem}{ending}" if config.out is None else Path(config.out)
    folder = config.format == "timm"
    if not folder and out.is_dir():
        raise RequestError(f"--out {out} is a folder: name a file in it, such as {stem}{ending}")
    if folder and out.exists() and not out.is_dir():
        raise RequestError(f"--out {out} is a file: --format timm writes a folder")
    others = folder and out.is_dir() and {path.name for path in out.iterdir()} - {*FILES}
    if others and not is_model_folder(out):
        raise RequestError(f"--out {out} holds other files: choose a new or empty folder")
    taken = [out / name for name in FILES] if folder else [out, _facts_file(out)]
    there = [path for path in taken if path.exists()]
    if there and not config.overwrite:
        raise RequestError(f"{there[0]} is there already: give --overwrite, or another --out")
    return out


def _facts_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def _write_graph(config: ExportConfig, net: nn.Module, card: NetworkCard, out: Path) -> Lines:
    network = PlainNetwork(net, card, config.pixels, config.output)
    facts = _facts(config, network, card)
    if config.format == "onnx":
        facts["opset"] = config.opset
        content = onnx_bytes(network, config.opset, facts)
        agreement = check("the ONNX file", OnnxNetwork(content), network)
        kind = f"ONNX, opset {config.opset}"
        loading = f"onnxruntime.InferenceSession({str(out)!r}).run(None, {{'{INPUT_NAME}': x}})[0]"
    else:
        content = program_bytes(network, facts)
        agreement = check("the exported program", loaded_program(content), network)
        kind = "torch.export"
        loading = f"torch.export.load({str(out)!r}).module()(x)"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_problem(error, out.parent) from error
    write_atomically(out, content)
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    write_atomically(_facts_file(out), f"{text}\n".encode())
    yield "written", f"{out} ({kind}, {len(content) / 1e6:.1f} MB), {_facts_file(out).name}"
    yield from _said(net, agreement)
    shape = ", ".join(map(str, network.input_shape))
    meant = {
        FLOAT: "float32 in 0 .. 1, normalized inside",
        NORMALIZED: "float32, normalized by mean and std of the .json",
        BYTES: "uint8 in 0 .. 255, normalized inside",
    }
    yield "takes", f"{INPUT_NAME} [N, {shape}], {meant[config.pixels]}"
    yield "gives", f"{config.output} [N, {len(card.data.class_names)}]"
    yield "load", loading


def _facts(config: ExportConfig, network: PlainNetwork, card: NetworkCard) -> dict[str, Any]:
    taken = "uint8 in 0 .. 255" if config.pixels == BYTES else "float32 in 0 .. 1"
    if config.pixels == NORMALIZED:
        taken += ", less the mean, divided by the standard deviation"
    return {
        **card.facts(),
        "parameters": count_parameters(network.net, auxiliary=False),
        "input": {
            "name": INPUT_NAME,
            "shape": [BATCH_NAME, *network.input_shape],
            "axes": "NHWC" if config.pixels == BYTES else "NCHW",
            "pixels": taken,
        },
        "output": {"name": config.output, "shape": [BATCH_NAME, len(card.data.class_names)]},
    }


def _write_folder(
    run: Run, config: ExportConfig, net: nn.Module, card: NetworkCard, out: Path
) -> Lines:
    size = card.data.image_size
    architecture, arguments = describe(net, run.config, card.data.in_channels, size)
    folder = ModelFolder.of(net, architecture, arguments, card)
    with tempfile.TemporaryDirectory() as trial:
        folder.write(Path(trial))
        loaded = _by_timm(Path(trial))
    network = PlainNetwork(net, card, NORMALIZED, LOGITS)
    agreement = check("the folder", lambda images: _logits(loaded, images), network)
    folder.write(out)
    yield "written", f"{out} (timm's architecture {architecture}): {', '.join(FILES)}"
    yield from _said(net, agreement)
    named = f"timm.create_model({f'local-dir:{out}'!r}, pretrained=True)"
    first = "import timm, ssfnas.timm_models; " if architecture == ARCHITECTURE else "import timm; "
    yield "load", first + named
    yield "or", f"import ssfnas; ssfnas.load({str(out)!r}).network()"


def _by_timm(folder: Path) -> nn.Module:
    import timm

    import ssfnas.timm_models  # noqa: F401  (tells timm of our architecture)

    net: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return net.eval()


def _logits(net: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = net(images)
    return logits


def _said(net: nn.Module, agreement: Agreement) -> Lines:
    yield "network", f"{count_parameters(net, auxiliary=False):,} parameters"
    yield "checked", str(agreement)
