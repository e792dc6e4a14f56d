"""Which sets are tried."""

from __future__ import annotations

from rdagent_sota_patch.ablation.grouping import Group
from rdagent_sota_patch.ablation.specs import Features, make_specs

FEATURES = Features(
    order=("ALPHA1", "a", "b", "b2", "c"),
    alpha=("ALPHA1",),
    groups=(Group(("c",)), Group(("b", "b2")), Group(("a",), alpha="ALPHA1")),
)


def test_the_sets() -> None:
    """In the model's order; a group goes as a whole, and what an Alpha feature says is in ``all`` alone."""
    sets = {(spec.kind, spec.name): spec.features for spec in make_specs(FEATURES, one_by_one=True)}
    assert sets == {
        ("all", ""): FEATURES.order,
        ("distinct", ""): ("ALPHA1", "b", "c"),
        ("without", "c"): ("ALPHA1", "b"),
        ("without", "b"): ("ALPHA1", "c"),
        ("alpha", ""): ("ALPHA1",),
        ("mined", ""): ("b", "c"),
        ("first", "c"): ("ALPHA1", "c"),
        ("first", "b"): ("ALPHA1", "b", "c"),
    }


def test_without_alpha_features() -> None:
    """Neither is alone then; a single factor is held against nothing at all."""
    alone = Features(("a",), (), (Group(("a",)),))
    sets = {(spec.kind, spec.name): spec.features for spec in make_specs(alone, one_by_one=False)}
    assert sets == {("all", ""): ("a",), ("distinct", ""): ("a",), ("without", "a"): ()}
