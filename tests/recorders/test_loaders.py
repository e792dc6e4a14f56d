from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

from rdagent_sota_patch.recorders.loaders import Loaded, thaw_loaders
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
    assert (loaded.table, loaded.table_last, loaded.sorts) == (
        PurePosixPath("combined_factors_df.parquet"),
        True,
        True,
    )


def test_a_table_alone_beside_the_label() -> None:
    loaded = load(label_alone(), TABLE)
    assert (loaded.alpha, loaded.table) == ((), PurePosixPath("combined_factors_df.parquet"))


def test_a_table_before_the_alpha_features_does_not_replace_them() -> None:
    assert load(label_alone(), TABLE, expressions()).table_last is False


def test_a_loader_alone_keeps_its_order() -> None:
    loaded = thaw_loaders(handler(expressions("QlibDataLoader")), {})
    assert ([feature.name for feature in loaded.alpha], loaded.table, loaded.sorts) == (
        ["B", "A"],
        None,
        False,
    )


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


def test_unknown_loaders_are_refused() -> None:
    with pytest.raises(Unthawable, match="unknown data loader"):
        load(expressions(), Made("my.loaders", "StaticDataLoader"))
    with pytest.raises(Unthawable, match="unknown data loader"):
        thaw_loaders(handler(None), {})


def test_tables_that_lead_or_are_many_are_refused() -> None:
    for loaders in ([TABLE, expressions()], [expressions(), TABLE, TABLE]):
        with pytest.raises(Unthawable, match="factor table"):
            load(*loaders)
    with pytest.raises(Unthawable, match="NestedDataLoader"):
        load(expressions(), TABLE, join="outer")


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
