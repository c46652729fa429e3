"""The test images that a network gets most wrong, for ``mistakes.npz``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssfnas.data import ImageSet
from ssfnas.evaluation.confusions import worst_decisions, worst_mistakes
from ssfnas.pictures.gallery import reduced


def mistake_arrays(
    images: ImageSet, logits: Tensor, labels: Tensor, thresholds: Tensor | None = None
) -> dict[str, NDArray[Any]]:
    """What a report shows of the mistakes on a part.

    Args:
        images: N of them.
        logits: floating [N, C].
        labels: int64 [N]; of several labels an image 0 or 1 [N, C], NaN where not known.
        thresholds: of several labels an image: the logit [C] to decide at; None: 0.

    Returns:
        ``images`` uint8 [n, H, W] or [n, H, W, 3], at most 160 pixels a side; ``positions`` int64
        [n] in the part; ``labels`` [n] or [n, C]; ``predicted`` int64 [n], and ``scores`` [n] and
        ``label_scores`` [n], the probabilities of the prediction and of the label; of several
        labels an image in their place ``scores`` [n, C] and ``thresholds`` [C], probabilities. See
        :func:`~ssfnas.evaluation.confusions.worst_mistakes` for which; none: no arrays.
    """
    logits, labels = logits.detach().double().cpu(), labels.cpu()
    arrays: dict[str, NDArray[Any]]
    if labels.ndim == 2:
        at = logits.new_zeros(logits.shape[1]) if thresholds is None else thresholds.double().cpu()
        positions = worst_decisions(logits - at, labels)
        arrays = {
            "scores": _single(logits[positions].sigmoid()),
            "thresholds": _single(at.sigmoid()),
        }
    else:
        probabilities = logits.softmax(1)
        positions = worst_mistakes(probabilities, labels)
        scores, predicted = probabilities[positions].max(1)
        of_label = probabilities[positions].gather(1, labels[positions, None])[:, 0]
        arrays = {
            "predicted": predicted.numpy(),
            "scores": _single(scores),
            "label_scores": _single(of_label),
        }
    if not len(positions):
        return {}
    chosen = images.gather(positions).cpu().numpy()
    return {
        "images": np.stack([reduced(image) for image in chosen]),
        "positions": positions.numpy(),
        "labels": labels[positions].numpy(),
        **arrays,
    }


def _single(values: Tensor) -> NDArray[Any]:
    return values.to(torch.float32).numpy()
