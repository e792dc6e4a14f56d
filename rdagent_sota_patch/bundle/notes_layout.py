"""The notes' layout: a bundle's folder that the readers of the user's first extraction scripts take as well.

They look for everything at the top of the folder. Where they and this project call different files by one name, one
file serves both: ``sota_factors.json`` is a list there, each factor with its code, and ``model_meta.json`` has two more
fields.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rdagent_sota_patch.bundle.documents import FACTORS_NAME, META_NAME, WEIGHTS_NAME
from rdagent_sota_patch.bundle.writing import name_code_file
from rdagent_sota_patch.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel

    from rdagent_sota_patch.bundle.documents import FactorOrder, ModelMeta, ShippedFactor
    from rdagent_sota_patch.bundle.writing import BundleWriter

Layout = Literal["bundle", "notes"]
"""How a bundle's folder is laid out."""

METADATA_NAME = "metadata.json"
FACTOR_META_NAME = "factor_meta.json"
NOTES_WEIGHTS_NAME = "model_weights.pkl"
ENTRY_NAME = "factor_entry.py"
LIBRARY_NAME = "rd_factors_lib/generated.py"
_PACKAGE_NAME = "rd_factors_lib/__init__.py"
_NAMES = frozenset(
    {METADATA_NAME, FACTOR_META_NAME, NOTES_WEIGHTS_NAME, ENTRY_NAME, LIBRARY_NAME, _PACKAGE_NAME}
)
_MODULE = "rd_factors_lib.generated"
_MOST_STATEMENTS = 200
"""At the top of a factor's file; the text of each is looked for from the file's start."""

_LIBRARY_HEAD = '''"""The factors of this folder as functions.

Where a factor's file only imports and defines, its parts are here as they are there. Any other factor's file is run
as RD-Agent runs it: it reads the market data in the current folder and leaves result.h5 there. All of it is the code
of the factors.
"""

import runpy as _runpy
from pathlib import Path as _Path


def _run(name):
    return _runpy.run_path(str(_Path(__file__).resolve().parent.parent / name), run_name="__main__")
'''


@dataclass(frozen=True, slots=True)
class NotesContent:
    """What a folder in the notes' layout tells.

    Attributes:
        task_id: The run's id.
        loop: Of the last accepted factor experiment, and
        index: its position in the history (``trace.hist``).
        entry: Relative path of that experiment's code; None where there is none.
        written_at: When it was exported, in ISO 8601.
        order, meta: None where there is no model.
    """

    task_id: str
    loop: int
    index: int
    entry: str | None
    written_at: str
    factors: tuple[ShippedFactor, ...]
    order: FactorOrder | None
    meta: ModelMeta | None


def lay_out_notes(writer: BundleWriter, content: NotesContent) -> None:
    """Add to a bundle that is being written what the notes' readers look for; before its manifest is written.

    The weights are the bundle's own, byte for byte, and nothing of them is loaded. A bundle of factors alone gets none.

    Args:
        writer: Has the bundle's documents, weights and code.
        content: What they tell.
    """
    numbered = list(enumerate(content.factors))
    with_code = [(number, factor) for number, factor in numbered if factor.code_relpath is not None]
    codes = {number: _read_code(writer, factor) for number, factor in numbered}
    files = {number: name_code_file(number, factor.name) for number, factor in with_code}
    _require_free(writer, {*_NAMES, *files.values()})
    writer.withdraw(FACTORS_NAME)
    writer.add_json(FACTORS_NAME, [{**_plain(factor), "code": codes[number]} for number, factor in numbered])
    for number, factor in with_code:
        writer.copy(files[number], writer.folder / str(factor.code_relpath))
    if content.entry is not None:
        writer.copy(ENTRY_NAME, writer.folder / content.entry)
    library = _build_library(
        {number: (content.factors[number].name, codes[number], files[number]) for number in files}
    )
    writer.add_text(_PACKAGE_NAME, "")
    writer.add_text(LIBRARY_NAME, library.text)
    writer.add_json(FACTOR_META_NAME, _describe_factors(content, library.functions))
    weights = writer.files.get(WEIGHTS_NAME) if content.meta is not None else None
    if weights is not None:
        writer.copy(NOTES_WEIGHTS_NAME, writer.folder / WEIGHTS_NAME)
    if content.meta is not None:
        writer.withdraw(META_NAME)
        writer.add_json(META_NAME, {**_plain(content.meta), **_describe_dataset(content, content.meta)})
    metadata = {
        "last_sota_factor_index": content.index,
        "sota_factors_count": len(content.factors),
        "model_weight_size": None if weights is None else weights.size,
    }
    writer.add_json(METADATA_NAME, metadata)


def _read_code(writer: BundleWriter, factor: ShippedFactor) -> str | None:
    """A factor's code as JSON can say it; None where it is missing, or no text."""
    if factor.code_relpath is None:
        return None
    try:
        return (writer.folder / factor.code_relpath).read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None


def _require_free(writer: BundleWriter, names: set[str]) -> None:
    """Some file systems take names for the same that differ in case alone."""
    taken = {name.casefold(): name for name in writer.files}
    clash = next((taken[name.casefold()] for name in sorted(names) if name.casefold() in taken), None)
    if clash is not None:
        raise BundleError(
            "bundle-damaged",
            f"{writer.folder}: it has a file {clash!r}, and so the notes' layout calls another.",
            "Leave out --layout notes.",
        )


def _plain(document: BaseModel) -> dict[str, Any]:
    """A document as JSON can say it: numbers that are none become null."""
    plain: dict[str, Any] = json.loads(document.model_dump_json())
    return plain


def _describe_factors(content: NotesContent, functions: Mapping[int, str]) -> dict[str, Any]:
    """``factor_meta.json``, with those fields of RD-Agent forks' own that are known."""
    return {
        "version": "v1",
        "task_run_id": content.task_id,
        "loop_id": content.loop,
        "created_at_utc": content.written_at,
        "factors": [
            {
                "name": factor.name,
                "description": factor.description,
                "formula_hint": factor.formulation,
                "expression": factor.formulation,
                "variables": factor.variables,
                "experiment_id": f"{content.task_id}/{factor.loop}",
                "in_table": factor.in_table,
                "impl_module": _MODULE if number in functions else None,
                "impl_func": functions.get(number),
            }
            for number, factor in enumerate(content.factors)
        ],
        "factor_order": None if content.order is None else content.order.factor_order,
    }


def _describe_dataset(content: NotesContent, meta: ModelMeta) -> dict[str, Any]:
    """``dataset_conf`` and ``feature_schema``: the Alpha features under ``FilterCol.col_list`` in both.

    RD-Agent's templates filter columns in some of its configurations only. Where this one did not, a filter is added to
    the processors here, since readers know the Alpha features from nowhere else; ``config.json`` is what was run.
    """
    alpha = [feature.name for feature in meta.alpha]
    column_filter = {"class": "FilterCol", "kwargs": {"fields_group": "feature", "col_list": alpha}}
    handler = _with_filter(meta.handler, column_filter) if alpha else meta.handler
    return {
        "dataset_conf": {
            **meta.dataset,
            "kwargs": {**(meta.dataset.get("kwargs") or {}), "handler": handler},
        },
        "feature_schema": {
            "FilterCol": {"fields_group": "feature", "col_list": alpha},
            "alpha": {feature.name: feature.expression for feature in meta.alpha},
            "dynamic_factors": [] if content.order is None else content.order.dynamic_factor_order,
        },
    }


def _with_filter(handler: Mapping[str, Any], column_filter: dict[str, Any]) -> dict[str, Any]:
    kwargs = dict(handler.get("kwargs") or {})
    processors = kwargs.get("infer_processors")
    processors = list(processors) if isinstance(processors, (list, tuple)) else []
    if not any(isinstance(one, dict) and one.get("class") == "FilterCol" for one in processors):
        kwargs["infer_processors"] = [column_filter, *processors]
    return {**handler, "kwargs": kwargs}


@dataclass(slots=True)
class _Library:
    """``rd_factors_lib/generated.py`` while it is written.

    Attributes:
        functions: Which function is a factor's, by the factor's number.
        sources: What each name of the module was made by: two factors' helpers of one name must be the same.
    """

    pieces: list[str] = field(default_factory=lambda: [_LIBRARY_HEAD])
    functions: dict[int, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=lambda: {"_run": "", "_runpy": "", "_Path": ""})

    @property
    def text(self) -> str:
        return "\n\n".join(self.pieces)

    def add(self, number: int, name: str, code: str | None, file: str) -> None:
        """Add a factor: its own definition where that is enough, or else a call of its file."""
        parts = None if code is None else _split(code)
        function = None if parts is None else next((one for one in _spellings(name) if one in parts), None)
        if parts is not None and function is not None and self._takes(parts):
            own = dict.fromkeys(text for one, text in parts.items() if one not in self.sources)
            self.sources.update(parts)
            self.pieces.append("\n\n\n".join([f"# {file}", *own]) + "\n")
        else:
            function = self._free(_spellings(name)[0])
            self.sources[function] = ""
            self.pieces.append(f'def {function}():\n    """Run {file}."""\n    return _run("{file}")\n')
        self.functions[number] = function

    def _takes(self, parts: Mapping[str, str]) -> bool:
        return all(self.sources.get(name, text) == text for name, text in parts.items())

    def _free(self, name: str) -> str:
        number = 2
        free = name
        while free in self.sources:
            free, number = f"{name}_{number}", number + 1
        return free


def _build_library(factors: Mapping[int, tuple[str, str | None, str]]) -> _Library:
    """The library of factors, given by number as name, code and file."""
    library = _Library()
    for number, (name, code, file) in factors.items():
        library.add(number, name, code, file)
    return library


def _spellings(name: str) -> tuple[str, str]:
    """What a factor's function may be called; RD-Agent's prompts ask for the first."""
    safe = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"calculate_{safe}", name


def _split(code: str) -> dict[str, str] | None:
    """Source by name of a module that only imports and defines; None for one that does more when it is imported."""
    try:
        with warnings.catch_warnings():
            # Of the code that is read, such as an escape that Python does not know.
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    found: dict[str, str] = {}
    for node in tree.body if len(tree.body) <= _MOST_STATEMENTS else ():
        if _is_main_guard(node) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            continue
        names = list(_names(node))
        text = ast.get_source_segment(code, node)
        # A name that is given twice may mean either when it is used.
        if not names or not text or set(names) & set(found):
            return None
        found.update(dict.fromkeys(names, text))
    return found


def _names(node: ast.stmt) -> Iterator[str]:
    """What a statement names that does no more; nothing for any other statement."""
    match node:
        case ast.Import(names=names):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in names)
        case ast.ImportFrom(module=module, names=names) if module != "__future__":
            aliases = [alias.asname or alias.name for alias in names]
            yield from () if "*" in aliases else aliases
        case ast.FunctionDef(name=name, decorator_list=[]) | ast.ClassDef(name=name, decorator_list=[]):
            yield name
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant()):
            yield name


def _is_main_guard(node: ast.stmt) -> bool:
    match node:
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"), ops=[ast.Eq()])):
            return True
    return False
