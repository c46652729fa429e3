"""One variant of a search step: built as a search builds it, and run on fixed batches."""

from __future__ import annotations

import copy
import dataclasses
from functools import partial

import numpy as np
import torch

from benchmarks import step_counts
from benchmarks.step_runner import StepRunner, exact, first_images, taken_gradients
from benchmarks.step_variants import StepVariant
from benchmarks.timing import timed
from ssfnas import ops
from ssfnas.config import SearchConfig
from ssfnas.data import load_data
from ssfnas.runtime.distributed import start_world
from ssfnas.seeding import generator
from ssfnas.training.search_trainer import SearchTrainer

# What a stream makes at a time is a part of this many images.
_STREAMED = {"cpu": 512, "cuda": 4096}


class SearchRunner(StepRunner):
    """Measures one variant of a bilevel step.

    Args:
        variant: which one.
        config: the search.
        device: ``"cpu"`` or ``"cuda"``.
        checked_images: the first images of a batch, which results are compared on.
    """

    def __init__(
        self, variant: StepVariant, config: SearchConfig, device: str, checked_images: int
    ) -> None:
        config = dataclasses.replace(
            config,
            supernet=variant.form,
            knn=False,
            cuda_graph="on" if variant.graphed else "off",
            precision=variant.arithmetic(config.precision),
        )
        world = start_world(device)
        super().__init__(variant, world.device)
        self.checked_images = checked_images
        self.trainer = SearchTrainer(config, load_data(config).to(world.device), world)
        batches = [self.trainer.alpha_stream.next(), self.trainer.weight_stream.next()]
        with torch.no_grad():
            # Equal weights on all edges would hide that some are mixed up.
            for number, alpha in enumerate(self.trainer.net.alphas()):
                rng = generator(config.seed, "benchmark", number)
                alpha.copy_(torch.randn(alpha.shape, generator=rng))
        if variant.exact:
            self.trainer.net.double()
            self.trainer.objective.double()
            batches = [exact(batch) for batch in batches]
        if variant.prepare is not None:
            variant.prepare(self.trainer)
        self.alpha_batch, self.weight_batch = batches
        self._parts = (self.trainer.net, self.trainer.objective, self.trainer.bilevel)
        self._initial = [copy.deepcopy(part.state_dict()) for part in self._parts]

    def step(self) -> None:
        """One bilevel step."""
        with self._backend():
            step = self.trainer.graphed or self.trainer.bilevel.step
            step(self.alpha_batch, self.weight_batch)

    def gradients(self) -> dict[str, np.ndarray]:
        """Loss and gradient of both updates on the checked images, each from the initial state.

        What is returned is float64, whatever computed it.
        """
        bilevel, count = self.trainer.bilevel, self.checked_images
        found: dict[str, np.ndarray] = {}
        for name, update, batch in (
            ("alpha", bilevel.alpha_step, self.alpha_batch),
            ("weight", bilevel.weight_step, self.weight_batch),
        ):
            with taken_gradients(bilevel.weights, bilevel.alphas) as taken, self._backend():
                terms = update(first_images(batch, count))
            found[f"{name} loss"] = terms["loss"].double().cpu().numpy()
            found[f"{name} gradient"] = torch.cat(taken).numpy()
            self._restore()
        return found

    def floor(self) -> step_counts.Floor:
        """What a step needs; plain PyTorch, so that each product is seen."""
        config, views = self.trainer.config, len(self.weight_batch.views)
        batches = (self.alpha_batch, self.weight_batch)
        with ops.backend("torch"):
            products = step_counts.multiply_adds(partial(self.trainer.bilevel.step, *batches))
        return step_counts.Floor(
            step_counts.bytes_moved(config, self.trainer.data.image_size, views), products
        )

    def data_seconds(self) -> float:
        """Of making both batches of a step, the mean over many."""
        stream = self.trainer.alpha_stream
        calls = -(-_STREAMED[self.device.type] // stream.batch_size)
        stream.next()
        stream.load_state_dict({**stream.state_dict(), "position": 0})
        return 2 * timed(lambda: [stream.next() for _ in range(calls)], self.device) / calls

    def _restore(self) -> None:
        for part, state in zip(self._parts, self._initial, strict=True):
            part.load_state_dict(copy.deepcopy(state))
        if self.trainer.graphed is not None:
            self.trainer.graphed.reset()
