"""What a search, a random search and a retraining have in common: steps, epochs, and a state."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssfnas.data import ImageData, ImageStream, make_views
from ssfnas.errors import NumericalError, RequestError
from ssfnas.runtime.distributed import World
from ssfnas.runtime.resumable import Resumable
from ssfnas.runtime.updates import Terms
from ssfnas.seeding import derive_seed, seeded_draws
from ssfnas.training.averages import RunningMeans

# Steps between two looks at whether all terms were finite, where no step waits for that.
LOOK_EVERY = 20


@dataclass(frozen=True)
class ForwardPasses:
    """The passes through the network whose results an update keeps for its backward pass.

    Attributes:
        option: of the config that says how many images a batch has.
        stream: where the batches come from.
        count: passes of a whole batch; 0: nothing is kept.
    """

    option: str
    stream: ImageStream
    count: int

    @property
    def images(self) -> int:
        """Images that a process passes through the network before it goes back."""
        return self.count * self.stream.batch_size // self.stream.world_size


class Trainer(Resumable, ABC):
    """A training of any kind, as the loop runs it.

    Args:
        config: what to do; checked already.
        data: the images, on ``world.device`` unless they are decoded lazily.
        world: the processes that train together.
        dtype: of weights and images; float64 is for proofs.

    Attributes:
        step: steps done.
        total_steps: steps in all.
        means: of the steps' terms since the last epoch ended.
    """

    total_steps: int
    net: torch.nn.Module

    def __init__(self, config: Any, data: ImageData, world: World, dtype: torch.dtype) -> None:
        self.config, self.data, self.world, self.dtype = config, data, world, dtype
        self.step = 0
        self.means = RunningMeans(world.device)

    def make_stream(
        self,
        purpose: str,
        views: str,
        *,
        world: World | None = None,
        indices: Tensor | None = None,
        batch_size: int | None = None,
        cutout: int = 0,
        mixup: float = 0.0,
        sampling_exponent: float = 1.0,
    ) -> ImageStream:
        """An endless stream of batches of training images.

        Args:
            purpose: the stream's order and views depend on it and on the seed alone.
            views: their name.
            world: the processes that share each batch; None: the trainer's.
            indices: int64 [n], the images to take; None: all.
            batch_size: over all processes; None: the config's.
            cutout: see :class:`~ssfnas.data.Views`.
            mixup, sampling_exponent: see :class:`~ssfnas.data.ImageStream`.
        """
        config, data, world = self.config, self.data, world or self.world
        return ImageStream(
            data.train,
            torch.arange(len(data.train)) if indices is None else indices,
            batch_size or config.batch_size,
            make_views(
                views, image_size=data.image_size, mean=data.mean, std=data.std, cutout=cutout
            ),
            seed=derive_seed(config.seed, purpose),
            device=world.device,
            num_classes=data.num_classes,
            sampling_exponent=sampling_exponent,
            mixup=mixup,
            rank=world.rank,
            world_size=world.size,
            workers=config.workers,
            dtype=self.dtype,
        )

    @contextmanager
    def trial(self) -> Iterator[torch.nn.Module]:
        """A copy of the network to try something on, of which nothing is seen afterward.

        Operations of users may count or draw in ways of their own, which buffers do not show.

        Raises:
            RequestError: a layer would normalize one value a channel.
        """
        try:
            with self._drawing("trial"):
                yield copy.deepcopy(self.net).train()
        except ValueError as error:
            if "Expected more than 1" not in str(error):  # PyTorch's words for it, and ours
                raise
            height, width = self.data.image_size
            raise RequestError(
                f"--batch-size {self.config.batch_size} with images of {width} x {height} pixels "
                f"leaves a layer one value a channel to normalize ({error}): use larger batches, "
                "or larger images (--image-size)"
            ) from error

    def refuse_single_values(self) -> None:
        """Try the network on a single black image, where a process has no more of a batch.

        Of two images a BatchNorm always has two values; what needs more of one image, such as an
        InstanceNorm, is found by the trial of memory.

        Raises:
            RequestError: a layer would normalize one value a channel.
        """
        if self.config.batch_size >= 2 * self.world.size:
            return
        shape = 1, self.data.in_channels, *self.data.image_size
        with torch.no_grad(), self.trial() as net:
            net(torch.zeros(shape, dtype=self.dtype, device=self.world.device))

    def count_step(self, terms: Terms, *, looked: bool) -> None:
        """Count a step and add its terms to the means.

        Args:
            terms: scalars on the device.
            looked: whether the step has made sure that they are finite; else that is done here, now
                and then and at the end of an epoch.

        Raises:
            NumericalError: a term since the last look was not finite; names it.
        """
        self.means.add(terms)
        self.step += 1
        if looked or not (self.epoch_ended or self.step % LOOK_EVERY == 0):
            return
        try:
            self.means.require_finite()
        except NumericalError as error:
            raise NumericalError(f"{error} in one of the last {LOOK_EVERY} steps") from None

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on.

        Raises:
            NumericalError: a term of a step since the last look was not finite.
        """
        self.means.require_finite()
        return super().state_dict()

    @property
    def finished(self) -> bool:
        """Whether no step is left, because all are done or because a rule stopped it."""
        return self.step >= self.total_steps

    @property
    @abstractmethod
    def epoch_ended(self) -> bool:
        """Whether the step just done was the last of an epoch."""

    @property
    @abstractmethod
    def epoch(self) -> int:
        """Epochs that are complete."""

    @property
    def place(self) -> tuple[str | int, ...]:
        """What the next step is called where draws are named; the same again after a resumption."""
        return (self.step,)

    @property
    @abstractmethod
    def passes(self) -> list[ForwardPasses]:
        """The kinds of updates that there are, and what each passes through the network."""

    def run_step(self) -> None:
        """Do one step and count it.

        What draws from a global generator in it (dropout of timm's models, operations of users)
        draws by seed, place of the step and rank of the process; the generators are put back.
        """
        with self._drawing("step", *self.place, self.world.rank):
            self._run_step()

    def end_epoch(self) -> dict[str, Any]:
        """Measure what is measured once an epoch; what to log of it.

        It draws by seed and epoch: processes that measure the same find the same.
        """
        with self._drawing("epoch", self.epoch):
            return self._end_epoch()

    def _drawing(self, *names: str | int) -> AbstractContextManager[None]:
        return seeded_draws(derive_seed(self.config.seed, *names), self.world.device)

    @abstractmethod
    def _run_step(self) -> None:
        """See :meth:`run_step`."""

    @abstractmethod
    def _end_epoch(self) -> dict[str, Any]:
        """See :meth:`end_epoch`."""

    def not_finite(self) -> str:
        """What made a term NaN or infinite, in words; empty where that is not known."""
        return ""

    @property
    def stage(self) -> str:
        """Where the step just done stands, in words for people."""
        return f"epoch {self.epoch}"

    @property
    def headlines(self) -> Sequence[str]:
        """Keys of what people watch of all that is logged, the most important first."""
        return ()

    def progress_values(self) -> Mapping[str, float]:
        """Current numbers, under the keys that they are logged by."""
        return self.means.values()

    @abstractmethod
    def close(self) -> None:
        """Release the processes that decode images."""
