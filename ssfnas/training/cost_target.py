"""What a search adds to the loss of its alphas where the derived network may cost only so much."""

from __future__ import annotations

from typing import Any

from ssfnas.config import SearchConfig
from ssfnas.data import ImageData
from ssfnas.errors import RequestError
from ssfnas.runtime.distributed import World
from ssfnas.runtime.updates import Terms
from ssfnas.strategies import SearchStrategy
from ssfnas.strategies.costs import (
    CostModel,
    Counted,
    cost_model,
    cost_target,
    cost_terms,
)


class CostTarget:
    """The excess of the expected cost over a target.

    Costs are counted when the search begins. Times, which another process or a later one would
    measure otherwise, are those of the first process, and kept with the state of the search.

    Args:
        config: names one target.
        strategy: whose decided weights the cost is expected of.
        data, world: of the search.

    Raises:
        RequestError: see :meth:`~ssfnas.strategies.costs.CostModel.require_reachable`.
    """

    def __init__(
        self, config: SearchConfig, strategy: SearchStrategy, data: ImageData, world: World
    ) -> None:
        target = cost_target(config)
        assert target is not None
        unit, self.target = target
        self.weight, self.strategy = config.cost_weight, strategy
        counted = Counted(
            operations=strategy.space.operations,
            nodes=config.nodes,
            num_classes=data.num_classes,
            in_channels=data.in_channels,
            image_size=data.original_size or data.image_size,
            channels=config.target_channels,
            layers=config.target_layers,
        )
        found: dict[str, Any] | str = ""
        if world.is_main:
            try:
                found = cost_model(unit, counted, device=world.device).to_dict()
            except Exception as error:  # of a user's operation; the others wait to hear of it
                if world.size == 1:
                    raise
                found = f"{type(error).__name__}: {error}"
        found = world.broadcast(found)
        if isinstance(found, str):
            raise RequestError(f"--target-{unit}: costs cannot be told: {found}")
        self.model = CostModel.from_dict(found)
        if not config.resume:  # which brings its own table
            self.model.require_reachable(self.target)

    def terms(self) -> Terms:
        """See :func:`~ssfnas.strategies.costs.cost_terms`."""
        return cost_terms(self.model, self.strategy.decided(), self.target, self.weight)

    def state_dict(self) -> dict[str, Any]:
        """The table of costs."""
        return self.model.to_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the table of costs that the search began with."""
        self.model = CostModel.from_dict(state)
