"""Which sets of features are tried: all, one left out, one more at a time, either kind alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rdagent_sota_patch.ablation.grouping import Group

Kind = Literal["all", "distinct", "without", "first", "alpha", "mined", "tried"]


@dataclass(frozen=True, slots=True)
class Spec:
    """A set of features.

    Attributes:
        kind: ``all``; ``distinct``: one factor of each group; ``without``: that, less one group; ``first``: the oldest
            of these, up to one; ``alpha`` or ``mined`` alone; ``tried`` on the way to the smallest set.
        name: The group that is left out, or comes last.
        features: In the model's order.
    """

    kind: Kind
    name: str
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Features:
    """What there is to choose from.

    Attributes:
        order: Every feature in the model's order.
        alpha: Those that are not mined.
        groups: The mined ones that vary, grouped, in order.
    """

    order: tuple[str, ...]
    alpha: tuple[str, ...]
    groups: tuple[Group, ...]

    @property
    def distinct(self) -> tuple[Group, ...]:
        """The groups that no Alpha feature says the same as."""
        return tuple(group for group in self.groups if group.alpha is None)

    def choose(self, groups: Iterable[Group], *, alpha: bool = True) -> tuple[str, ...]:
        """The first member of each group, and the Alpha features, in the model's order."""
        chosen = {group.name for group in groups} | set(self.alpha if alpha else ())
        return tuple(name for name in self.order if name in chosen)


def make_specs(features: Features, *, one_by_one: bool) -> tuple[Spec, ...]:
    """The sets that are known from the start.

    Args:
        features: What there is.
        one_by_one: Whether factors are added one at a time, too.
    """
    groups = features.distinct
    members = {name for group in features.groups for name in group.members} | set(features.alpha)
    specs = [
        Spec("all", "", tuple(name for name in features.order if name in members)),
        Spec("distinct", "", features.choose(groups)),
        *(Spec("without", group.name, features.choose(_less(groups, group))) for group in groups),
    ]
    if features.alpha:
        specs += [
            Spec("alpha", "", features.choose(())),
            Spec("mined", "", features.choose(groups, alpha=False)),
        ]
    if one_by_one:
        specs += [
            Spec("first", group.name, features.choose(groups[:count]))
            for count, group in enumerate(groups, start=1)
        ]
    return tuple(specs)


def _less(groups: Sequence[Group], left_out: Group) -> tuple[Group, ...]:
    return tuple(group for group in groups if group is not left_out)
