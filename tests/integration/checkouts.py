"""RD-Agent as people change it: copies of the installed one, edited here, and a sandbox that runs such a copy.

Each trait is one of those that people's own checkouts were seen to have. It is made by edits that have to match, so
that a release in which the text is another one fails here and not in some assertion far away.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.demo.synthetic_market import MarketSpec, Segments
from tests.integration.warm_sandbox import Warm, WarmSandbox

Trait = Callable[[Path], None]
"""Edits the package's folder, ``…/rdagent``."""

SECOND_FILE = "static_factors.parquet"
LOADER, LOADER_MODULE = "PricesAndTable", "rdagent.scenarios.qlib.experiment.joined_loader"

_QLIB = "scenarios/qlib"
_FACTOR_RUNNER, _MODEL_RUNNER = f"{_QLIB}/developer/factor_runner.py", f"{_QLIB}/developer/model_runner.py"
_WORKSPACE = f"{_QLIB}/experiment/workspace.py"
_TEMPLATES = f"{_QLIB}/experiment"
_SERIALIZATION = "core/serialization.py"


def is_editable() -> bool:
    """Whether the installed RD-Agent is built like 1.0.0, on which the edits are made."""
    return (_installed() / _SERIALIZATION).is_file()


def _installed() -> Path:
    found = importlib.util.find_spec("rdagent")
    assert found is not None and found.submodule_search_locations
    return Path(found.submodule_search_locations[0])


def copy_of_rdagent(folder: Path, traits: Iterable[Trait] = ()) -> Path:
    """A copy of the installed RD-Agent as ``folder/rdagent``, with traits; returns ``folder``, for ``PYTHONPATH``.

    The copy is a package of its own: without ``__init__.py``, Python would look for what was removed from it in the
    installed one.
    """
    package = folder / "rdagent"
    ignored = shutil.ignore_patterns("__pycache__", "*.png", "*.csv")
    shutil.copytree(_installed(), package, ignore=ignored)
    (package / "__init__.py").touch()
    for trait in traits:
        trait(package)
    return folder


def edit(package: Path, file: str, old: str, new: str, times: int = 1) -> None:
    """Replace ``old`` in one file; it has to be there so many times."""
    path = package / file
    text = path.read_bytes().decode()
    assert text.count(old) == times, f"{file}: {text.count(old)} times {old!r}"
    path.write_bytes(text.replace(old, new).encode())


def substitute(package: Path, file: str, pattern: str, new: str) -> None:
    """Replace each match of ``pattern`` in one file; there has to be one."""
    path = package / file
    text, count = re.subn(
        pattern, lambda match: match.expand(new), path.read_bytes().decode(), flags=re.MULTILINE
    )
    assert count, f"{file}: no {pattern!r}"
    path.write_bytes(text.encode())


def _templates(package: Path) -> list[str]:
    found = sorted((package / _TEMPLATES).glob("*_template/conf_*.yaml"))
    return [str(path.relative_to(package)) for path in found]


_LOADER_CODE = f'''\
"""Alpha features and a table of mined factors from one loader."""

import pandas as pd
from qlib.contrib.data.loader import Alpha158DL
from qlib.data.dataset.loader import StaticDataLoader


class {LOADER}:
    """The rows are those of the prices; the columns stay in the order in which they come: prices, then table."""

    def __init__(self, prices, table, how="left"):
        self.prices = Alpha158DL(config=prices)
        self.table = StaticDataLoader(config=table)
        self.how = how

    def load(self, instruments=None, start_time=None, end_time=None):
        prices = self.prices.load(instruments, start_time, end_time)
        table = self.table.load(None, start_time, end_time)
        return prices.join(table, how=self.how).sort_index()
'''

_NESTED = re.compile(
    r"^        class: NestedDataLoader\n        kwargs:\n            dataloader_l:\n"
    r"                - class: qlib\.contrib\.data\.loader\.Alpha158DL\n                  kwargs:\n"
    r"                    config:\n(?P<alpha>(?: {24}.*\n)+)"
    r"                - class: qlib\.data\.dataset\.loader\.StaticDataLoader\n                  kwargs:\n"
    r'                    config: "combined_factors_df\.parquet"\n',
    re.MULTILINE,
)
_ONE_LOADER = rf"""        class: {LOADER}
        module_path: {LOADER_MODULE}
        kwargs:
                    prices:
\g<alpha>                    table: "combined_factors_df.parquet"
                    how: "left"
"""


def loads_unsorted(package: Path) -> None:
    """One loader for Alpha and mined features in every factor back-test: left join, columns as they come."""
    (package / _TEMPLATES / "joined_loader.py").write_text(_LOADER_CODE, encoding="utf-8")
    template = package / _TEMPLATES / "factor_template"
    text, count = _NESTED.subn(
        _ONE_LOADER, (template / "conf_combined_factors.yaml").read_text(encoding="utf-8")
    )
    assert count == 1, text
    (template / "conf_combined_factors_dynamic.yaml").write_text(text, encoding="utf-8")
    edit(
        package,
        _FACTOR_RUNNER,
        '"conf_combined_factors.yaml"',
        '"conf_combined_factors_dynamic.yaml"',
        times=2,
    )


def env_file_wins(package: Path) -> None:
    """``.env`` is loaded with override."""
    edit(package, "app/cli.py", 'load_dotenv(".env")', 'load_dotenv(".env", override=True)')


def reads_use_alpha_factors(package: Path) -> None:
    """The model runner reads ``USE_ALPHA_FACTORS`` itself, and takes it for true where it is not set."""
    edit(package, _MODEL_RUNNER, "import pandas as pd\n", "import os\n\nimport pandas as pd\n")
    edit(
        package,
        _MODEL_RUNNER,
        "                target_path = exp.experiment_workspace",
        '                if os.getenv("USE_ALPHA_FACTORS", "true") == "true":\n'
        '                    logger.info("Alpha features are layered beside the SOTA factors")\n\n'
        "                target_path = exp.experiment_workspace",
    )


def one_experiment_is_enough(package: Path) -> None:
    """One factor experiment is enough for the model runner to use its factors."""
    edit(
        package,
        _MODEL_RUNNER,
        "len(sota_factor_experiments_list) > 1",
        "len(sota_factor_experiments_list) >= 1",
    )


def weights_in_file_dict(package: Path) -> None:
    """Both runners keep the weights in the session as bytes, where code is kept otherwise."""
    for file, owner in ((_MODEL_RUNNER, "sub_workspace_list[0]"), (_FACTOR_RUNNER, "experiment_workspace")):
        edit(
            package,
            file,
            "        exp.stdout = stdout\n",
            "        exp.stdout = stdout\n"
            '        for weights in exp.experiment_workspace.workspace_path.glob("mlruns/*/*/artifacts/params.pkl"):\n'
            f'            exp.{owner}.file_dict["params.pkl"] = weights.read_bytes()\n',
        )


def returns_as_pickle(package: Path) -> None:
    """A back-test leaves its daily returns as ``ret.pkl``."""
    edit(package, _WORKSPACE, '"ret.parquet"', '"ret.pkl"')
    edit(package, _WORKSPACE, "pd.read_parquet(quantitative", "pd.read_pickle(quantitative")
    for template in ("factor_template", "model_template"):
        file = f"{_TEMPLATES}/{template}/read_exp_res.py"
        edit(package, file, 'to_parquet("ret.parquet")', 'to_pickle("ret.pkl")')


def unsigned_sessions(package: Path) -> None:
    """Sessions are plain pickles, and so is all else: there is nothing that signs."""
    line = re.compile(r"^from rdagent\.core\.serialization import (\w+) as (\w+)$", re.MULTILINE)
    for path in package.rglob("*.py"):
        text = path.read_bytes().decode()
        if "rdagent.core.serialization" not in text:
            continue
        text = line.sub(r"from pickle import \1 as \2", text).replace(", serializer=pickle)", ")")
        text = text.replace(
            "from rdagent.core.serialization import UntrustedArtifactError",
            "from pickle import UnpicklingError as UntrustedArtifactError",
        )
        assert "core.serialization" not in text, path
        path.write_bytes(text.encode())
    (package / _SERIALIZATION).unlink()


def features_in_templates(package: Path) -> None:
    """The Alpha features are lists in the templates, and neither a plan nor an experiment has any."""
    features = _alpha20(package)
    for file in _templates(package):
        edit(package, file, "{{ feature_expressions }}", _flow_list(features.values()))
        edit(package, file, "{{ feature_names }}", _flow_list(features))
    for file in (_FACTOR_RUNNER, _MODEL_RUNNER):
        edit(package, file, "len(exp.base_features)", "RD_AGENT_SETTINGS.initial_fator_library_size")
        substitute(package, file, r"^            \"feature_(names|expressions)\": .*\n", "")
    if "import RD_AGENT_SETTINGS" not in (package / _FACTOR_RUNNER).read_text(encoding="utf-8"):
        edit(package, _FACTOR_RUNNER, "import pandas as pd\n", _SETTINGS_IMPORT)
    substitute(package, f"{_TEMPLATES}/model_experiment.py", r"^        self\.base_features: .*\n", "")
    for file in ("components/workflow/rd_loop.py", "app/qlib_rd_loop/quant.py"):
        substitute(package, file, r"^ +exp\.base(d_experiments\[-1\]\.base)?_features = self\.plan\[.*\n", "")


_SETTINGS_IMPORT = "import pandas as pd\n\nfrom rdagent.core.conf import RD_AGENT_SETTINGS\n"


def alpha_names() -> list[str]:
    """The Alpha features as they are configured."""
    return list(_alpha20(_installed()))


def _alpha20(package: Path) -> dict[str, str]:
    for node in ast.parse((package / "utils" / "qlib.py").read_bytes()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ALPHA20":
            return dict(ast.literal_eval(node.value))
    raise AssertionError("no ALPHA20")


def _flow_list(texts: Iterable[str]) -> str:
    """As the templates had it: double quotes, over several lines."""
    return "[" + (",\n" + 31 * " ").join(f'"{text}"' for text in texts) + "]"


def dates_in_templates(segments: Segments) -> Trait:
    """The dates are written into the templates, and no setting changes them."""
    days = {
        f"{name}_{edge}": str(day)
        for name in ("train", "valid", "test")
        for edge, day in zip(("start", "end"), getattr(segments, name), strict=True)
    }

    def trait(package: Path) -> None:
        for file in _templates(package):
            for name, day in days.items():
                substitute(package, file, rf"\{{\{{ {name} \| default\([^)]*\) \}}\}}", day)
            assert "default(" not in (package / file).read_text(encoding="utf-8").split("dataset_cls")[0], (
                file
            )
        for file in (_FACTOR_RUNNER, _MODEL_RUNNER):
            substitute(package, file, r"^            \"(train|valid|test)_(start|end)\": .*\n", "")
            substitute(package, file, r"^        if \w+\.test_end is not None:\n.*\n", "")

    return trait


def describes_parquet(package: Path) -> None:
    """The data folder may hold parquet files: the LLM is told their columns."""
    edit(
        package,
        f"{_TEMPLATES}/utils.py",
        '    elif p.name.endswith(".md"):\n',
        '    elif p.name.endswith(".parquet"):\n'
        "        columns = list(pd.read_parquet(p).columns)\n"
        '        return JJ_TPL.render(file_name=p.name, type_desc="Parquet Data File", content=str(columns))\n\n'
        '    elif p.name.endswith(".md"):\n',
    )


def tracking_uri_of_the_workspace(package: Path) -> None:
    """Each back-test is told where MLflow keeps it."""
    edit(
        package,
        _WORKSPACE,
        "        # Run the Qlib backtest\n",
        "        # Run the Qlib backtest\n"
        '        run_env = {**run_env, "MLFLOW_TRACKING_URI": str(self.workspace_path / "mlruns")}\n',
    )


def exchange_at_the_end(package: Path) -> None:
    """The templates name the benchmark with its exchange at the end."""
    for file in _templates(package):
        edit(package, file, "&benchmark SH000300", "&benchmark 000300.SH")


def windows_line_ends(package: Path) -> None:
    """All of the source is kept with CR and LF; the last of several traits."""
    for path in package.rglob("*"):
        if path.suffix in (".py", ".yaml", ".txt", ".md"):
            path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))


class CheckoutSandbox(WarmSandbox):
    """A sandbox in which ``rdagent`` is the one of ``tree``, for the back-tests as well."""

    def __init__(self, folder: Path, warm: Warm, tree: Path, **options: Any) -> None:
        super().__init__(folder, warm, **options)
        self.tree = tree

    def environment(self, run: str, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The sandbox's, with the tree before the installed packages."""
        return WarmSandbox.environment(self, run, {"PYTHONPATH": str(self.tree), **(extra or {})})

    def _furnish(self) -> None:
        WarmSandbox._furnish(self)
        # RD-Agent sets PYTHONPATH for its back-tests: the tree has to come before it here.
        for program in ("python", "qrun"):
            path = self.folder / "env" / "bin" / program
            start = f'#!/bin/sh\nPYTHONPATH="{self.tree}${{PYTHONPATH:+:$PYTHONPATH}}"; export PYTHONPATH\n'
            path.write_text(
                path.read_text(encoding="utf-8").replace("#!/bin/sh\n", start, 1), encoding="utf-8"
            )


_SEGMENTS = Segments()

FORK: tuple[Trait, ...] = (
    loads_unsorted,
    env_file_wins,
    reads_use_alpha_factors,
    one_experiment_is_enough,
    weights_in_file_dict,
    returns_as_pickle,
    unsigned_sessions,
    features_in_templates,
    dates_in_templates(_SEGMENTS),
    describes_parquet,
    tracking_uri_of_the_workspace,
    exchange_at_the_end,
    windows_line_ends,
)
"""The user's own fork, as far as the plugin can tell."""

BETWEEN: tuple[Trait, ...] = (features_in_templates, returns_as_pickle, unsigned_sessions)
SIGNED: tuple[Trait, ...] = (returns_as_pickle,)


def make_sandbox(
    folder: Path, warm: Warm, traits: Iterable[Trait], market: MarketSpec | None = None
) -> CheckoutSandbox:
    """A sandbox around a copy with ``traits``."""
    tree = copy_of_rdagent(folder / "tree", traits)
    market = market or MarketSpec(stocks=54)
    return CheckoutSandbox(folder / "sandbox", warm, tree, market=market, segments=_SEGMENTS)


def write_second_file(sandbox: Sandbox) -> None:
    """``static_factors.parquet`` beside ``daily_pv.h5``, in both folders: money flow and daily basics."""
    for folder in (sandbox.factor_data, sandbox.folder / "data" / "debug"):
        prices = pd.read_hdf(folder / "daily_pv.h5", key="data")
        rng = np.random.default_rng(5)
        flow, size = rng.normal(size=(2, len(prices)))
        columns = {"mf_a": flow, "db_b": np.log(prices["$volume"].to_numpy()) - 14.5, "db_c": size}
        pd.DataFrame(columns, index=prices.index).to_parquet(folder / SECOND_FILE)
