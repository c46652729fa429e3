"""A trained network on new images: from a checked config to predictions on screen and in files."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssfnas.config import PredictConfig
from ssfnas.data.image_places import named_images
from ssfnas.errors import RequestError
from ssfnas.evaluation.predictor import Predictor, image_form
from ssfnas.evaluation.thresholds import chosen_thresholds
from ssfnas.options import check_multi_label, option_values
from ssfnas.pictures.prediction_page import PredictionPage
from ssfnas.pipeline.corrections import chosen_correction
from ssfnas.pipeline.prediction_files import PredictionFile, prediction_file
from ssfnas.pipeline.prediction_table import PredictionTable
from ssfnas.pipeline.run import Run
from ssfnas.runtime.precision import check_precision
from ssfnas.runtime.progress import Progress

_LONG = 500
"""Images from which on progress is shown."""


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What came of a prediction.

    Attributes:
        lines: for the screen.
        notes: how it was done, and what was done to the images, a line each.
        page: HTML, where it was asked for.
    """

    lines: list[str]
    notes: list[str]
    page: str | None


def predict_images(run: Run, config: PredictConfig, device: torch.device) -> Predicted:
    """Everything that ``config`` asks for; files are written, the page is not.

    Args:
        run: the retraining.
        config: which images, and how.
        device: where to compute.

    Raises:
        RequestError: the run has no such network, or the images are not there or cannot be read.
    """
    check_precision(config.precision, device)
    net = run.network(config.which).to(device)
    card = run.data_card
    names = card.class_names
    if card.multi_label:
        check_multi_label(config, option_values(type(config)))
    if config.top_k > len(names):
        raise RequestError(
            f"--top-k {config.top_k}: the network tells {len(names)} classes apart: give at most "
            f"{len(names)}"
        )
    form = image_form(card, config.background or run.config.background)
    sources, notes = named_images(config.images, form, config.part)
    total = sum(map(len, sources))
    predictor = Predictor(
        net, card, device, precision=config.precision, batch_size=config.batch_size,
        workers=config.workers, skip_corrupt=config.skip_corrupt,
    )  # fmt: skip
    how = _prepare(predictor, run, config, net)
    table = PredictionTable(names, config.top_k, card.multi_label)
    page = None
    if config.report is not None:
        page = PredictionPage(names, card.multi_label, how.get("thresholds", ()))
    settings = {
        "run": str(run.path),
        "weights": config.which,
        "data": card.name,
        "multi_label": card.multi_label,
        "image": {"height": form.height, "width": form.width, "channels": form.channels},
        "top_k": config.top_k,
        **how,
    }
    with _file(config, names, settings) as file:
        with Progress(total, title="predict", unit="image", enabled=total > _LONG) as progress:
            for batch in predictor.predict(sources):
                table.add(batch)
                for other in (file, page):
                    if other is not None:
                        other.add(batch)
                progress.update(table.images)
        notes = [*notes, *_how_lines(how), *form.notes(predictor.done, total - predictor.unread)]
        if predictor.unread:
            notes.append(f"{predictor.unread:,} of {total:,} images could not be read")
        if file is not None:
            counts = {name: table.counts[number] for number, name in enumerate(names)}
            file.end(
                {"images": total, "unread": predictor.unread, "counts": counts, "notes": notes}
            )
    html = (
        None if page is None else page.html(f"{total:,} images", str(run.path), config.which, notes)
    )
    return Predicted(table.lines(config.out), notes, html)


def page_file(run: Run, config: PredictConfig) -> Path:
    """Where the page goes."""
    asked = str(config.report)
    return run.path / "predictions.html" if asked == "auto" else Path(asked)


def _prepare(
    predictor: Predictor, run: Run, config: PredictConfig, net: nn.Module
) -> dict[str, Any]:
    """Give a predictor what the validation part has chosen; what that is, for files."""
    if run.data_card.multi_label:
        logits = chosen_thresholds(run, config.which)
        if logits is None:
            chosen = [0.5] * len(run.data_card.class_names)
            return {"thresholds": chosen, "thresholds_chosen_on": None}
        predictor.thresholds = torch.tensor(logits)
        chosen = torch.tensor(logits, dtype=torch.float64).sigmoid().tolist()
        return {"thresholds": chosen, "thresholds_chosen_on": "validation"}
    if config.correction == "none":
        return {"correction": None}
    predictor.correct, tau = chosen_correction(run, net, config.correction, config.which)
    predictor.takes_features = config.correction == "tau_normalization"
    return {"correction": {"name": config.correction, "tau": tau, "chosen_on": "validation"}}


def _how_lines(how: dict[str, Any]) -> list[str]:
    if "thresholds" in how:
        chosen = how["thresholds"]
        if how["thresholds_chosen_on"] is None:
            return ["labels are decided for at a probability of 50 %: none were chosen"]
        return [
            "labels are decided for at the probabilities that the validation part chose: "
            f"{100 * min(chosen):.3g} to {100 * max(chosen):.3g} %"
        ]
    used = how["correction"]
    if used is None:
        return []
    title = used["name"].replace("_", " ").replace("tau ", "tau-")
    return [f"corrected: {title} with tau {used['tau']:g}, which the validation part chose"]


@contextlib.contextmanager
def _file(
    config: PredictConfig, names: tuple[str, ...], settings: dict[str, Any]
) -> Iterator[PredictionFile | None]:
    if config.out is None:
        yield None
        return
    with prediction_file(config.out, names, settings) as file:
        yield file
