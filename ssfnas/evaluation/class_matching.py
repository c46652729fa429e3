"""Where two data sets meet, their classes are the same where their names are."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ssfnas.data import ImageData, ImageSet
from ssfnas.errors import RequestError
from ssfnas.runs.data_card import DataCard, normalized

_SHOWN = 5


def matched(data: ImageData, card: DataCard, owner: str) -> tuple[ImageData, list[str]]:
    """``data`` with the classes of a network, in the network's order.

    Names are compared in Unicode's composed form (NFC). Names in another order are renumbered, and
    a part of the classes will do. Mere numbers (``"0"``,
    ``"1"``, ..., as data without class names have) and names can only be matched by their places,
    with a warning, where there are as many.

    Args:
        data: other data than the network was trained on, or the same as it is today.
        card: of the data that the network was trained on.
        owner: whose network it is, for messages.

    Returns:
        The data, and what was done to their classes, a line each. A label that images with several
        labels are not told to have or not to have is NaN.

    Raises:
        RequestError: a class that the network does not know, or names that stand for no class.
    """
    if data.multi_label != card.multi_label:
        several = ("one label", "several labels")
        raise RequestError(
            f"{data.name} has {several[data.multi_label]} an image, the data of {owner} "
            f"{several[card.multi_label]}: give data of the same kind"
        )
    names, known = normalized(data.class_names), normalized(card.class_names)
    if names == known:
        return dataclasses.replace(data, class_names=card.class_names), []
    numbered = _mere_numbers(names), _mere_numbers(known)
    if (set(names) <= set(known)) and not (all(numbered) and len(names) < len(known)):
        return _by_name(data, card, names, known)
    if any(numbered) and len(names) == len(known):
        named, other = (card.name, data.name) if numbered[0] else (data.name, card.name)
        warnings.warn(
            f"{other} numbers its classes and {named} names them: they are matched by number, so "
            f"that class 0 is taken for '{(known if numbered[0] else names)[0]}'",
            stacklevel=2,
        )
        return dataclasses.replace(data, class_names=card.class_names), []
    if any(numbered):
        raise RequestError(
            f"{data.name} has {_classes(names)}, the network of {owner} was trained on the "
            f"{_classes(known)} of {card.name}: mere numbers match only where there are as many"
        )
    unknown = [name for name in names if name not in known]
    lacking = [name for name in known if name not in names]
    lacks = f", and lacks {len(lacking)} of its {len(known)} ({_listed(lacking)})"
    raise RequestError(
        f"{data.name} has {len(unknown)} of {len(names)} classes that the network of {owner} does "
        f"not know ({_listed(unknown)}){lacks if lacking else ''}: give data of the classes of "
        f"{card.name}, or some of them, under the same names"
    )


def _by_name(
    data: ImageData, card: DataCard, names: Sequence[str], known: Sequence[str]
) -> tuple[ImageData, list[str]]:
    for kind, listed in ((data.name, names), (card.name, known)):
        if twice := [name for name in listed if listed.count(name) > 1]:
            raise RequestError(
                f"{kind} has two classes called '{twice[0]}': classes are matched by name, so give "
                "each a name of its own"
            )
    places = torch.tensor([known.index(name) for name in names])
    notes = []
    if places.tolist() != sorted(places.tolist()):
        notes.append(f"classes of {data.name} stand in another order: matched by name")
    if missing := [name for name in known if name not in names]:
        notes.append(
            f"{data.name} has {len(names)} of the {len(known)} classes, and not "
            f"{_listed(missing)}: what is measured is about those that it has"
        )

    def renumbered(part: ImageSet) -> ImageSet:
        return ImageSet(part.images, _renumbered(part.labels, places, len(known)))

    aligned = data.with_each(renumbered)
    return dataclasses.replace(aligned, class_names=card.class_names), notes


def _renumbered(labels: Tensor, places: Tensor, classes: int) -> Tensor:
    places = places.to(labels.device)
    if labels.ndim == 1:
        return places[labels]
    moved = labels.new_full((len(labels), classes), float("nan"))
    moved[:, places] = labels
    return moved


def _mere_numbers(names: Sequence[str]) -> bool:
    return list(names) == [str(number) for number in range(len(names))]


def _classes(names: Sequence[str]) -> str:
    if _mere_numbers(names):
        return f"{len(names)} numbered classes"
    return f"{'class' if len(names) == 1 else 'classes'} {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in names[:_SHOWN]) + more
