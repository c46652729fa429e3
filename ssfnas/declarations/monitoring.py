"""What a search measures of its features as it goes."""

from __future__ import annotations

from dataclasses import dataclass

from ssfnas.options import option


@dataclass(kw_only=True)
class Monitoring:
    """Nearest neighbors, measured."""

    knn: bool = option(True, "measure nearest-neighbor accuracy of the features", single_label=True)
    knn_every: int = option(
        5,
        "epochs from one such measurement to the next; the last epoch has one in any case",
        minimum=1,
        only_if={"knn": (True,)},
    )
