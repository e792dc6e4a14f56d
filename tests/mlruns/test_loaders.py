from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from rdagent_sota_patch.mlruns.loaders import Arrangement, Loaded, thaw_loaders
from rdagent_sota_patch.sessions.inert import Inert, read_inert
from rdagent_sota_patch.sessions.thaw import Unthawable
from tests.sessions.forged import Made, forge

LOADERS = "qlib.data.dataset.loader"
LABEL = ("label", (["Ref($close, -2)"], ["LABEL0"]))
TABLE = Made(LOADERS, "StaticDataLoader", state={"join": "outer"})
STATIC = {
    "class": "qlib.data.dataset.loader.StaticDataLoader",
    "kwargs": {"config": "combined_factors_df.parquet"},
}


def expressions(name: str = "Alpha158DL", **changed: object) -> Made:
    fields = {"feature": (["$close/$open", "$low/$open"], ["B", "A"]), LABEL[0]: LABEL[1]}
    options = {
        "is_group": True,
        "filter_pipe": None,
        "freq": "day",
        "swap_level": True,
        "inst_processors": {},
    }
    module = "qlib.contrib.data.loader" if name.startswith("Alpha") else LOADERS
    return Made(module, name, state={**options, "fields": fields, **changed})


def label_alone() -> Made:
    return expressions("QlibDataLoader", fields=dict([LABEL]))


def load(*loaders: Made, kwargs: dict[str, Any] | None = None, join: str = "left") -> Loaded:
    """What a handler with a nested loader loads; its task names a table at the second place."""
    nested = Made(LOADERS, "NestedDataLoader", state={"data_loader_l": list(loaders), "join": join})
    asked = {"data_loader": {"kwargs": {"dataloader_l": [{}, STATIC]}}} if kwargs is None else kwargs
    return thaw_loaders(handler(nested), asked)


def handler(loader: object) -> Inert:
    read: Inert = read_inert(
        forge(Made("qlib.data.dataset.handler", "DataHandlerLP", state={"data_loader": loader}))
    )
    return read


def test_alpha_and_a_table() -> None:
    loaded = load(expressions(), TABLE)
    assert [(feature.name, feature.expression) for feature in loaded.alpha] == [
        ("B", "$close/$open"),
        ("A", "$low/$open"),
    ]
    assert loaded.label == {"LABEL0": "Ref($close, -2)"}
    assert (loaded.table, loaded.unknown) == (PurePosixPath("combined_factors_df.parquet"), None)
    assert loaded.arrangements == (Arrangement("sorted", "last", "left"),)


def test_a_table_alone_beside_the_label() -> None:
    loaded = load(label_alone(), TABLE)
    assert (loaded.alpha, loaded.table) == ((), PurePosixPath("combined_factors_df.parquet"))


def test_a_table_before_the_alpha_features_does_not_replace_them() -> None:
    (arrangement,) = load(label_alone(), TABLE, expressions()).arrangements
    assert arrangement.arrange(("B", "A"), ("A", "C")) == (("A", "B", "C"), ("C",))


@pytest.mark.parametrize(
    ("joined", "first", "last"),
    [("left", "left", "right"), ("right", "right", "left"), ("outer",) * 3, ("inner",) * 3],
)
def test_whose_rows_a_nested_loader_keeps(joined: str, first: str, last: str) -> None:
    """Those of its first loader, or of its last, for a table that comes after the Alpha features or before them."""
    (arrangement,) = load(expressions(), TABLE, join=joined).arrangements
    assert arrangement.join == first
    (arrangement,) = load(
        TABLE,
        expressions(),
        join=joined,
        kwargs={"data_loader": {"kwargs": {"dataloader_l": [STATIC, {}]}}},
    ).arrangements
    assert arrangement.join == last


def test_a_loader_alone_keeps_its_order() -> None:
    loaded = thaw_loaders(handler(expressions("QlibDataLoader")), {})
    assert ([feature.name for feature in loaded.alpha], loaded.table) == (["B", "A"], None)
    assert loaded.arrangements[0].arrange(("B", "A"), ()) == (("B", "A"), ())


@pytest.mark.parametrize(
    "changed",
    [
        {"freq": "1min"},
        {"filter_pipe": [1]},
        {"inst_processors": {"feature": [1]}},
        {"swap_level": False},
        {"is_group": False},
        {"fields": {"feature": (["$close"], ["A", "B"])}},
        {"fields": {"feature": (["$close", "$open"], ["A", "A"])}},
        {"fields": {"feature": ([1], ["A"])}},
        {"fields": {"other": (["$close"], ["A"])}},
        {"fields": None},
    ],
    ids=str,
)
def test_options_that_nothing_here_knows_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(Unthawable):
        load(expressions(**changed), TABLE)


def test_a_table_alone() -> None:
    """Its rows are all that there are."""
    loaded = thaw_loaders(handler(TABLE), {"data_loader": STATIC})
    assert (loaded.alpha, loaded.label, loaded.unknown) == ((), {}, None)
    assert (loaded.table, loaded.arrangements[0].join) == (
        PurePosixPath("combined_factors_df.parquet"),
        "right",
    )


def own(config: dict[str, Any], **state: object) -> Loaded:
    """What a loader of another's class loads."""
    return thaw_loaders(
        handler(Made("my.loaders", "Mine", state=state)),
        {"data_loader": {"class": "Mine", "module_path": "my.loaders", "kwargs": config}},
    )


FIELDS = {"feature": [["$close/$open", "$low/$open"], ["B", "A"]], "label": [["Ref($close, -2)"], ["LABEL0"]]}


def test_a_loader_of_another_class_says_what_it_loads() -> None:
    """By Qlib's loaders inside it, or by its configuration, wherever that names expressions and a parquet file."""
    for loaded in (
        own({"anything": FIELDS, "path": "combined_factors_df.parquet"}, inner=expressions(), join="outer"),
        own({"deep": [{"er": FIELDS}], "path": "combined_factors_df.parquet", "join": "outer"}),
        own({}, kept=FIELDS, files=["combined_factors_df.parquet"], join="outer"),
    ):
        assert [(feature.name, feature.expression) for feature in loaded.alpha] == [
            ("B", "$close/$open"),
            ("A", "$low/$open"),
        ]
        assert loaded.label == {"LABEL0": "Ref($close, -2)"}
        assert loaded.table == PurePosixPath("combined_factors_df.parquet")
        assert loaded.unknown == "my.loaders:Mine"
        assert {arrangement.join for arrangement in loaded.arrangements} == {"outer"}
        arranged = {arrangement.arrange(("B", "A"), ("A", "C")) for arrangement in loaded.arrangements}
        assert arranged == {
            (("B", "A", "C"), ("A", "C")),
            (("B", "A", "C"), ("C",)),
            (("A", "C", "B"), ("A", "C")),
            (("C", "B", "A"), ("C",)),
            (("A", "C", "B"), ("C",)),
            (("A", "B", "C"), ("A", "C")),
            (("A", "B", "C"), ("C",)),
        }


def test_a_join_that_is_not_told() -> None:
    """All four may be; a word of the loader's own that is not a join tells nothing."""
    for loaded in (own({"x": FIELDS}), own({"x": FIELDS, "join": "nearest"})):
        assert {arrangement.join for arrangement in loaded.arrangements} == {
            "left",
            "outer",
            "inner",
            "right",
        }


def test_another_loader_within_qlibs_own() -> None:
    """`NestedDataLoader` sorts whatever it is given."""
    loaded = load(expressions(), Made("my.loaders", "StaticDataLoader"))
    assert loaded.unknown == "qlib.data.dataset.loader:NestedDataLoader"
    assert {arrangement.order for arrangement in loaded.arrangements} == {"sorted"}


def test_loaders_that_say_nothing_are_refused() -> None:
    with pytest.raises(Unthawable, match="unknown data loader"):
        own({"x": 1})
    with pytest.raises(Unthawable, match="unknown data loader"):
        thaw_loaders(handler(None), {})
    with pytest.raises(Unthawable, match="A with two expressions"):
        own({"x": FIELDS, "y": {"feature": [["$high"], ["A"]]}})
    with pytest.raises(Unthawable, match="more than one factor table"):
        own({"x": FIELDS, "y": "a.parquet", "z": "b.parquet"})
    with pytest.raises(Unthawable, match="outside the workspace"):
        own({"x": FIELDS, "y": "/data/a.parquet"})
    with pytest.raises(Unthawable, match="not Qlib's defaults"):
        own({}, inner=expressions(freq="1min"))


def test_several_tables_are_refused() -> None:
    with pytest.raises(Unthawable, match="factor table"):
        load(expressions(), TABLE, TABLE)


@pytest.mark.parametrize(
    "config", ["/abs.parquet", "../up.parquet", "C:/x.parquet", 7, {"feature": "x"}], ids=str
)
def test_a_table_elsewhere_is_refused(config: object) -> None:
    static = {**STATIC, "kwargs": {"config": config}}
    with pytest.raises(Unthawable):
        load(expressions(), TABLE, kwargs={"data_loader": {"kwargs": {"dataloader_l": [{}, static]}}})


def test_a_task_without_the_table_is_refused() -> None:
    with pytest.raises(Unthawable, match="does not name the factor table"):
        load(expressions(), TABLE, kwargs={})
