"""The two views of Barlow Twins on small images."""

from __future__ import annotations

import torch
from torch import Tensor

from ssfnas.data.color import jitter_color, to_gray
from ssfnas.data.crops import draw_resized_crops, resized_crops
from ssfnas.data.views import VIEWS, Parameters, Views, to_float

_SCALE = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_STRENGTH = (0.4, 0.4, 0.2)  # brightness, contrast, saturation
_HUE = 0.1
_JITTER, _GRAY, _SOLARIZE = 0.8, 0.2, 0.2


@VIEWS.register("barlow_twins")
class BarlowTwinsViews(Views):
    """Two strong views: resized crop, flip, color jitter, gray; the second also solarized.

    The settings are those of solo-learn's CIFAR recipe (method of Zbontar et al., 2021): area 0.08
    to 1, jitter 0.4, 0.4, 0.2, 0.1 with probability 0.8, gray 0.2, no blur, solarize 0.2 on the
    second view. Gray images keep what has a meaning for them: saturation, hue and gray are left
    out.
    """

    count = 2

    def draw_parameters(self, n: int, generator: torch.Generator) -> Parameters:
        """Box, mirroring, jitter and its order, gray and solarize of both views: [n, 2, ...]."""
        boxes = [
            draw_resized_crops(n, self.image_size, generator, scale=_SCALE, ratio=_RATIO)
            for _ in range(self.count)
        ]
        uniform = torch.rand((n, self.count, 8), generator=generator)
        strength = torch.tensor(_STRENGTH)
        blend = 1 + strength * (2 * uniform[..., :3] - 1)
        hue = _HUE * (2 * uniform[..., 3:4] - 1)
        order = torch.rand((n, self.count, 4), generator=generator).argsort(-1)
        solarize = uniform[..., 7] < _SOLARIZE
        solarize[:, 0] = False
        return {
            "box": torch.stack(boxes, 1),
            "flip": uniform[..., 4] < 0.5,
            "jitter": uniform[..., 5] < _JITTER,
            "factors": torch.cat([blend, hue], -1),
            "order": order,
            "gray": uniform[..., 6] < _GRAY,
            "solarize": solarize,
        }

    def pixels(self, images: Tensor, parameters: Parameters, dtype: torch.dtype) -> list[Tensor]:
        """Both views."""
        source = to_float(images, dtype)
        return [
            self._view(source, {key: value[:, number] for key, value in parameters.items()})
            for number in range(self.count)
        ]

    def _view(self, source: Tensor, parameters: Parameters) -> Tensor:
        view = resized_crops(source, parameters["box"], parameters["flip"])
        view = jitter_color(view, parameters["factors"], parameters["order"], parameters["jitter"])
        if view.shape[1] == 3:
            rows = torch.nonzero(parameters["gray"])[:, 0].to(view.device)
            view.index_copy_(0, rows, to_gray(view[rows]).expand(-1, 3, -1, -1))
        rows = torch.nonzero(parameters["solarize"])[:, 0].to(view.device)
        bright = view[rows]
        # Inverted from 0.5 on, where the inverse is the smaller of the two.
        view.index_copy_(0, rows, torch.minimum(bright, 1 - bright))
        return view
