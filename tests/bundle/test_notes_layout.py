"""The notes' layout: what the notes' own readers do with a folder, done with one that was exported."""

from __future__ import annotations

import json
import pickle
import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_patch.bundle.documents import FACTORS_NAME
from rdagent_sota_patch.bundle.notes_layout import NotesContent, lay_out_notes
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.bundle.writing import BundleWriter
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.export.export_run import Exported, ExportOptions, export_bundle
from rdagent_sota_patch.scoring.replay import replay_slice
from rdagent_sota_patch.sessions.records import Factor
from tests.bundle.made import NOW, edit_document, make_bundle, replace_file
from tests.export.made_run import (
    EXPERIMENT,
    ORDER,
    RUN,
    MadeRun,
    make_run,
    model_experiment,
    write_recorder,
)

DEFINING = """import numpy as np
import pandas as pd

WINDOW = 5


def _change(values):
    return values[-1] / values[-WINDOW] - 1


def calculate_{name}():
    return float(_change(np.arange(1.0, 7.0)) * {times})


if __name__ == "__main__":
    calculate_{name}()
"""
"""A factor as RD-Agent's prompts ask for it: everything in functions."""


def export(run: MadeRun, target: Path, **options: Any) -> Exported:
    return export_bundle(run.session, target, ExportOptions(layout="notes", **options), lambda _: None)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def with_factors(run: MadeRun, *factors: tuple[str, str]) -> MadeRun:
    """The run with the last experiment's factors changed to these names and codes."""
    made = tuple(Factor(name, "what it is", "a/b", {}, code, implemented=True) for name, code in factors)
    first, rejected, last = run.session.experiments
    last = replace(last, factors=made, workspace=None)
    return replace(run, session=replace(run.session, experiments=(first, rejected, last)))


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return make_run(tmp_path / "project")


@pytest.fixture
def folder(run: MadeRun, tmp_path: Path) -> Path:
    return export(run, tmp_path / "notes").folder


def test_factors_are_a_list(run: MadeRun, folder: Path) -> None:
    """Each with name, formulation, code and metrics, oldest first: what sections 3.2 and 5.2 collect."""
    factors = read_json(folder / "sota_factors.json")
    assert [factor["name"] for factor in factors] == ["ZMom", "GapA", "Extra", "Broken"]
    recorded = [factor for loop in (0, 2) for factor in run.session.experiments[loop].factors]
    assert [factor["formulation"] for factor in factors] == [factor.formulation for factor in recorded]
    assert [factor["code"] for factor in factors] == [*(factor.code for factor in recorded[:3]), None]
    assert factors[0]["metrics"] == {"IC": 0.03, "ICIR": None}


def test_the_weights_are_the_runs_own(run: MadeRun, folder: Path) -> None:
    """Byte for byte, and `metadata.json` has their size, the index in the history and the number of factors."""
    weights = (folder / "model_weights.pkl").read_bytes()
    own = run.workspace / "mlruns" / EXPERIMENT / RUN / "artifacts" / "params.pkl"
    assert weights == own.read_bytes() == (folder / "model.pkl").read_bytes()
    assert read_json(folder / "metadata.json") == {
        "last_sota_factor_index": 2,
        "sota_factors_count": 4,
        "model_weight_size": len(weights),
    }


def test_code_lies_at_the_top_and_is_counted_from_0(folder: Path) -> None:
    """Section 9: `factor_{i}_{name}.py` for the list's factor i, and a report that says how it went."""
    for number, factor in enumerate(read_json(folder / "sota_factors.json")):
        path = folder / f"factor_{number}_{factor['name']}.py"
        assert path.exists() == (factor["code"] is not None)
        if path.exists():
            assert path.read_text() == factor["code"]
    report = read_json(folder / "extract_report.json")
    assert report["summary"]["sota_factors_count"] == 4
    assert report["summary"]["model_weight_exists"] is True


def test_the_entry_is_code_of_the_newest_experiment(folder: Path) -> None:
    """`factor_entry.py` is its first factor's, and the manifest names it."""
    assert (folder / "factor_entry.py").read_text() == read_json(folder / "sota_factors.json")[1]["code"]
    assert read_json(folder / "manifest.json")["primary_assets"]["factor_entry_relpath"] == "factor_entry.py"


def test_each_factor_with_code_is_found_in_the_library(folder: Path) -> None:
    """Section 12.1: by a definition of its name, or of `calculate_` and its name."""
    meta = read_json(folder / "factor_meta.json")
    library = (folder / "rd_factors_lib" / "generated.py").read_text()
    for factor in meta["factors"]:
        found = re.search(rf"^(class|def) (calculate_)?{re.escape(factor['name'])}\b", library, re.MULTILINE)
        assert (found is not None) == (factor["name"] != "Broken")
        assert factor["impl_module"] == ("rd_factors_lib.generated" if found else None)


def test_alpha_features_are_those_of_the_column_filter(run: MadeRun, tmp_path: Path) -> None:
    """Sections 12.2 and 13.4.2: `FilterCol.col_list`, in the processors of `dataset_conf` and in `feature_schema`."""
    write_recorder(run.workspace, alpha={"Extra": "$close/$open"}, table=("ZMom", "GapA"))
    folder = export(run, tmp_path / "notes", replay=False).folder
    meta = read_json(folder / "model_meta.json")
    processors = meta["dataset_conf"]["kwargs"]["handler"]["kwargs"]["infer_processors"]
    (found,) = [one["kwargs"] for one in processors if one["class"] == "FilterCol"]
    assert found == {"fields_group": "feature", "col_list": ["Extra"]}
    assert meta["feature_schema"]["FilterCol"]["col_list"] == ["Extra"]
    assert meta["feature_schema"]["alpha"] == {"Extra": "$close/$open"}
    # What was run has no such filter.
    assert "FilterCol" not in (folder / "config.json").read_text()


def test_the_order_is_in_both_documents(folder: Path) -> None:
    """Sections 13.7 and 14: `factor_meta.json` has `factor_order.json`'s, and the manifest says where that is."""
    order = read_json(folder / "factor_order.json")
    assert read_json(folder / "factor_meta.json")["factor_order"] == order["factor_order"] == list(ORDER)
    assert order["alpha158_count"] + order["dynamic_factor_count"] == len(order["factor_order"])
    assert (
        read_json(folder / "manifest.json")["primary_assets"]["factor_order_relpath"] == "factor_order.json"
    )


def test_it_is_a_bundle(folder: Path) -> None:
    """It opens, tells the same of its factors as one in the usual layout, and replays exactly."""
    bundle = open_bundle(folder)
    assert [factor.name for factor in bundle.factors.factors] == ["ZMom", "GapA", "Extra", "Broken"]
    assert replay_slice(bundle).max_difference == 0.0
    listed = set(bundle.manifest.files) | {"manifest.json"}
    assert listed == {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_usual_layout_stays_as_it_was(run: MadeRun, tmp_path: Path) -> None:
    """Of what the notes' readers look for it has nothing that it did not have."""
    usual = export_bundle(run.session, tmp_path / "usual", ExportOptions(), lambda _: None)
    assert not {"metadata.json", "factor_meta.json", "model_weights.pkl"} & set(usual.manifest.files)
    factors = read_json(usual.folder / "sota_factors.json")["factors"]
    assert "code" not in factors[0]
    assert "dataset_conf" not in read_json(usual.folder / "model_meta.json")


@pytest.mark.parametrize(
    "name", ["model_weights.pkl", "metadata.json", "factor_0_ZMom.py", "rd_factors_lib/generated.py"]
)
def test_a_change_is_noticed(folder: Path, name: str) -> None:
    """In any of the files, as in a bundle's others."""
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(SotaError, match=name) as caught:
        open_bundle(folder)
    assert caught.value.slug == "bundle-altered"


def test_code_that_differs_from_its_file_is_refused(folder: Path) -> None:
    """Readers of the list would run other code than was audited."""
    factors = read_json(folder / FACTORS_NAME)
    factors[0]["code"] += "\n"
    replace_file(folder, FACTORS_NAME, json.dumps(factors).encode())
    with pytest.raises(SotaError, match=r"'ZMom' in sota_factors\.json is not that of"):
        open_bundle(folder)


def test_factors_alone_have_no_weights(run: MadeRun, tmp_path: Path) -> None:
    """Section 9 knows such a folder; what is not there is null, and nothing is put in its place."""
    folder = export(run, tmp_path / "notes", factors_only=True).folder
    assert not (folder / "model_weights.pkl").exists()
    assert read_json(folder / "metadata.json")["model_weight_size"] is None
    assert read_json(folder / "factor_meta.json")["factor_order"] is None
    assert (folder / "factor_0_ZMom.py").exists()
    assert open_bundle(folder).manifest.factors_only


def test_weights_that_are_gone_are_an_error(run: MadeRun, tmp_path: Path) -> None:
    """As in any export: nothing is written."""
    (run.workspace / "mlruns" / EXPERIMENT / RUN / "artifacts" / "params.pkl").unlink()
    with pytest.raises(SotaError) as caught:
        export(run, tmp_path / "notes")
    assert caught.value.slug == "weights-missing"
    assert not (tmp_path / "notes").exists()


def test_a_model_experiments_weights_are_refused(run: MadeRun, tmp_path: Path) -> None:
    """The notes take them from the factor experiment alone."""
    quant = (*run.session.experiments, model_experiment(3, run.workspace))
    run = replace(run, session=replace(run.session, experiments=quant))
    with pytest.raises(SotaError) as caught:
        export(run, tmp_path / "notes", stage="model")
    assert caught.value.slug == "notes-of-a-model"
    # Where nothing is said, this layout means the factor stage: there is no other.
    assert export(run, tmp_path / "notes").manifest.stage == "factor"


def test_names_that_are_no_file_names(run: MadeRun, tmp_path: Path) -> None:
    """Separators, 255 letters, one name in two cases, one that is not an identifier: a file and a function each."""
    names = ["../up", "x" * 255, "Alpha", "alpha", 'a"""b\n', "因子", "a-b", "a.b"]
    run = with_factors(run, *((name, f"value = {number}\n") for number, name in enumerate(names)))
    folder = export(run, tmp_path / "notes", factors_only=True).folder
    files = sorted(path.name for path in folder.glob("factor_[0-9]*.py"))
    assert len({name.casefold() for name in files}) == 1 + len(names)
    assert max(map(len, files)) < 100
    functions = [factor["impl_func"] for factor in read_json(folder / "factor_meta.json")["factors"]]
    library = runpy.run_path(str(folder / "rd_factors_lib" / "generated.py"))
    assert [library[function]()["value"] for function in functions[1:]] == list(range(len(names)))


def test_definitions_are_in_the_library(run: MadeRun, tmp_path: Path) -> None:
    """With what they need of their file, and importing them calls none of them."""
    run = with_factors(
        run, *((name, DEFINING.format(name=name, times=times)) for name, times in (("A", 1), ("B", 2)))
    )
    folder = export(run, tmp_path / "notes", factors_only=True).folder
    text = (folder / "rd_factors_lib" / "generated.py").read_text()
    assert text.count("def _change(") == 1
    library = runpy.run_path(str(folder / "rd_factors_lib" / "generated.py"))
    assert (library["calculate_A"](), library["calculate_B"]()) == (2.0, 4.0)


def test_helpers_of_one_name_do_not_take_each_others_place(run: MadeRun, tmp_path: Path) -> None:
    """The second factor's file is run instead."""
    codes = [
        DEFINING.format(name="A", times=1),
        DEFINING.format(name="B", times=1).replace("WINDOW = 5", "WINDOW = 2"),
    ]
    folder = export(
        with_factors(run, ("A", codes[0]), ("B", codes[1])), tmp_path / "notes", factors_only=True
    ).folder
    library = runpy.run_path(str(folder / "rd_factors_lib" / "generated.py"))
    assert library["calculate_A"]() == 2.0
    assert library["calculate_B"]()["calculate_B"]() == pytest.approx(0.2)


@pytest.mark.parametrize(
    "code",
    [
        "from __future__ import annotations\n\ndef calculate_A():\n    pass\n",
        "from os.path import *\n\ndef calculate_A():\n    pass\n",
        "x = 1\nx = 2\n\ndef calculate_A():\n    pass\n",
        "print(1)\n\ndef calculate_A():\n    pass\n",
        "def other():\n    pass\n",
        "def calculate_A(:\n",
        "(" * 500,
        "\0",
        "s = '\\d'\n" * 300,
    ],
)
def test_code_that_cannot_be_copied_is_run_from_its_file(run: MadeRun, tmp_path: Path, code: str) -> None:
    """Whatever it is; the library itself stays code that Python takes."""
    folder = export(with_factors(run, ("A", code)), tmp_path / "notes", factors_only=True).folder
    text = (folder / "rd_factors_lib" / "generated.py").read_text()
    compile(text, "generated.py", "exec")
    assert 'return _run("factor_1_A.py")' in text


def test_a_file_that_has_a_name_of_the_layout_is_told(tmp_path: Path) -> None:
    """Also where it differs in case alone; nothing is overwritten."""
    made = make_bundle(tmp_path / "bundle")
    replace_file(made.folder, "Metadata.json", b"{}")
    bundle = open_bundle(made.folder)
    content = NotesContent("made", 1, 0, None, NOW, bundle.factors.factors, bundle.order, bundle.meta)
    with pytest.raises(SotaError, match=r"Metadata\.json"):
        lay_out_notes(BundleWriter(made.folder, bundle.manifest.files), content)
    assert isinstance(read_json(made.folder / FACTORS_NAME), dict)


def test_a_filter_that_was_configured_stays(tmp_path: Path) -> None:
    """A second one would contradict it; what is not a configuration at all does no harm."""
    made = make_bundle(tmp_path / "bundle", replay=False)
    own = {"class": "FilterCol", "kwargs": {"fields_group": "feature", "col_list": ["KLEN"]}}

    def configure(meta: dict[str, Any]) -> None:
        meta["handler"]["kwargs"] = {"infer_processors": [own, 5]}

    edit_document(made.folder, "model_meta.json", configure)
    bundle = open_bundle(made.folder)
    content = NotesContent("made", 1, 0, None, NOW, bundle.factors.factors, bundle.order, bundle.meta)
    lay_out_notes(BundleWriter(made.folder, bundle.manifest.files), content)
    meta = read_json(made.folder / "model_meta.json")
    assert meta["dataset_conf"]["kwargs"]["handler"]["kwargs"]["infer_processors"] == [own, 5]
    assert pickle.loads((made.folder / "model_weights.pkl").read_bytes()) is not None
