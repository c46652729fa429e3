"""Whether runs that are compared were trained and measured on the same data, and where not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssfnas.evaluation.classification_metrics import class_groups
from ssfnas.pictures.markup import joined, table
from ssfnas.pictures.page_parts import Section, paragraph
from ssfnas.runs.data_card import SAME_PIXELS, normalized
from ssfnas.runs.run_files import RunFiles

_MOST_NAMES = 5


@dataclass(frozen=True)
class Fact:
    """Something that a run says of its data.

    Attributes:
        value: what is compared; None: the run does not say, as one of an earlier version.
        text: the same for people.
    """

    value: Any
    text: str


def data_section(runs: Sequence[RunFiles]) -> Section | None:
    """What of their data differs, at the top of a comparison of runs; None where nothing does."""
    facts = [_data_facts(run) for run in runs]
    different = [key for key in facts[0] if _differ([of_run[key] for of_run in facts])]
    groups = [_groups(run) for run in runs]
    measured = _differ(groups)
    if not different and not measured:
        return None
    rows = [(key, *(of_run[key].text for of_run in facts)) for key in different]
    if "classes" in different:
        rows.append(("names that not all have", *_names_apart(runs)))
    if measured:
        rows.append(("many, medium and few", *(group.text for group in groups)))
    said = []
    if different:
        said.append(
            paragraph(
                "These runs were not trained and measured on the same images, so their numbers do "
                "not say which is the better network or method. They are not averaged."
            )
        )
    if measured:
        said.append(
            paragraph(
                "Their evaluations put the classes into groups in different ways: results of "
                "classes with many, a medium number and few images are of different classes."
            )
        )
    title = "Different data" if different else "Different groups of classes"
    head = ("", *(run.name for run in runs))
    return Section("data", title, joined([*said, table(head, rows, class_="values")]), alert=True)


def same_data(first: RunFiles, second: RunFiles) -> bool:
    """Whether two runs have the same data, as far as they say."""
    own, others = _data_facts(first), _data_facts(second)
    return not any(_differ([own[key], others[key]]) for key in own)


def _data_facts(run: RunFiles) -> dict[str, Fact]:
    data, names = run.data, normalized(run.class_names)
    counts = run.class_counts
    several = data.get("multi_label")
    tested = data.get("test_images")
    if tested is None:
        measured = run.evaluation.get("data", {})
        tested = measured.get("test_images") if isinstance(measured, Mapping) else None
    return {
        "labels an image": Fact(several, "several" if several else "one"),
        "classes": Fact(sorted(names) or None, f"{len(names):,}"),
        "training images": Fact(_by_name(names, counts), _sizes(_total(run), counts)),
        "test images": Fact(tested, "none" if tested == 0 else f"{tested or 0:,}"),
        "test images of each class": Fact(
            _by_name(names, data.get("test_counts")), _sizes(None, data.get("test_counts") or ())
        ),
        "channels": Fact(data.get("in_channels"), str(data.get("in_channels"))),
        "mean and deviation of the pixels": _pixels(data),
    }


def _differ(facts: Sequence[Fact]) -> bool:
    known = [fact.value for fact in facts if fact.value is not None]
    return any(not _alike(known[0], value) for value in known[1:])


def _alike(first: Any, second: Any) -> bool:
    if not isinstance(first, _Pixels):
        return bool(first == second)
    if first.size != second.size:  # resized, which the configurations say
        return True
    pairs = zip(first.statistics, second.statistics, strict=False)
    return all(math.isclose(a, b, rel_tol=0, abs_tol=SAME_PIXELS) for a, b in pairs)


@dataclass(frozen=True)
class _Pixels:
    size: tuple[int, ...]
    statistics: tuple[float, ...]


def _pixels(data: Mapping[str, Any]) -> Fact:
    mean, std, size = (data.get(key) for key in ("mean", "std", "image_size"))
    if not (mean and std and size):
        return Fact(None, "")
    text = f"{', '.join(f'{v:.3f}' for v in mean)}; {', '.join(f'{v:.3f}' for v in std)}"
    return Fact(_Pixels(tuple(size), (*mean, *std)), text)


def _by_name(names: Sequence[str], counts: Sequence[int] | None) -> Any:
    """Sizes of classes whatever their order."""
    if counts is None or not names or len(counts) != len(names):
        return None
    return sorted(zip(names, counts, strict=True))


def _total(run: RunFiles) -> int | None:
    """Training images, where the sizes of the classes say how many."""
    known = run.data.get("training_images")
    if known is None and not run.data.get("multi_label"):
        known = sum(run.class_counts)
    return known


def _sizes(total: int | None, counts: Sequence[int]) -> str:
    spread = f"{max(counts):,} to {min(counts):,} a class" if counts else ""
    return spread if total is None else f"{total:,}" + (f" ({spread})" if spread else "")


def _names_apart(runs: Sequence[RunFiles]) -> list[str]:
    """Of each run, names of classes that not every run has."""
    names = [normalized(run.class_names) for run in runs]
    common = set(names[0]).intersection(*names[1:])
    texts = []
    for own in names:
        apart = [name for name in own if name not in common]
        more = f" and {len(apart) - _MOST_NAMES:,} more" if len(apart) > _MOST_NAMES else ""
        texts.append(", ".join(apart[:_MOST_NAMES]) + more or "-")
    return texts


def _groups(run: RunFiles) -> Fact:
    """How the evaluation groups the classes."""
    measured = run.evaluation.get("last_epoch")
    groups = measured.get("groups") if isinstance(measured, Mapping) else None
    if not isinstance(groups, Mapping) or not run.class_counts:
        return Fact(None, "-")
    usual = groups == class_groups(run.class_counts)
    return Fact(usual, "by the number of images" if usual else "thirds of the classes")
