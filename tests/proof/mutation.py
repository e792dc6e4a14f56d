"""Mutation testing over sessions, factor table and bundle format: small faults in the code, and whether tests notice.

cosmic-ray makes the mutants. There are thousands; a sample is taken, the same in each run, and the share that is killed
comes with its interval of confidence. A mutant meets the tests of its module first, then those of its room.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.proof.report import Row, timed

if TYPE_CHECKING:
    from collections.abc import Iterator

PART = "mutation"
PROJECT = Path(__file__).resolve().parents[2]
PACKAGE = "rdagent_sota_patch"
ROOMS = {
    "sessions": ("tests/sessions", "tests/hostile"),
    "factor_table": ("tests/factor_table",),
    "bundle": ("tests/bundle",),
}
_SAMPLE = 24
_SEED = 20
_LEAST_KILLED = 0.85
_AT_ONCE = 1
_SECONDS = 300.0
"""For all tests of one mutant; what takes longer is taken for an endless loop, and killed."""

EQUIVALENT: dict[str, str] = {
    "sessions/opcodes.py ReplaceComparisonOperator_Eq_LtE 16": "all lower kinds are dealt with above",
    "factor_table/rows.py NumberReplacer 29": "the first of times is used only where all are equal",
    "bundle/folder.py ReplaceComparisonOperator_Eq_GtE 2": "no name of a POSIX system sorts after win32",
    "bundle/documents.py ReplaceFalseWithTrue 0": "of the error, place and words alone are used",
    "bundle/documents.py ReplaceFalseWithTrue 1": "of the error, place and words alone are used",
}
"""Mutants of the sample that change nothing anybody could see, with the reason."""


@dataclass(frozen=True)
class Mutant:
    """One changed place.

    Attributes:
        module: Its path in the project.
        occurrence: Which of the places that the operator could change.
    """

    module: str
    operator: str
    occurrence: int
    line: int

    def __str__(self) -> str:
        return f"{self.module.removeprefix(PACKAGE + '/')}:{self.line} {self.operator.rpartition('/')[2]}"

    @property
    def key(self) -> str:
        """Tells it apart, whatever lines are added elsewhere."""
        return (
            f"{self.module.removeprefix(PACKAGE + '/')} {self.operator.rpartition('/')[2]} {self.occurrence}"
        )


def measure(folder: Path) -> list[Row]:
    """Each room's sample."""
    if importlib.util.find_spec("cosmic_ray") is None:
        why = "cosmic-ray is missing: pip install 'rdagent-sota-patch[proof]'"
        return [Row(PART, room, 0, None, why) for room in ROOMS]
    folder.mkdir(parents=True)
    for worker in range(_AT_ONCE):
        for name in (PACKAGE, "tests"):
            shutil.copytree(
                PROJECT / name, folder / str(worker) / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(PROJECT / "pyproject.toml", folder / str(worker))
    rows = []
    for room, tests in ROOMS.items():
        if _fails(list(tests), folder / "0"):
            rows.append(Row(PART, room, 0, False, "its tests fail where nothing is changed"))
        else:
            rows.append(timed(lambda room=room: _try_room(room, folder)))
    return rows


def _try_room(room: str, folder: Path) -> Row:
    everything = list_mutants(room)
    chosen = choose(everything, _SAMPLE)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        halves = [chosen[worker::_AT_ONCE] for worker in range(_AT_ONCE)]
        found = pool.map(lambda half: _try_all(room, half[1], folder / str(half[0])), enumerate(halves))
        survivors = [mutant for part in found for mutant in part]
    (folder / f"survivors-{room}.txt").write_text(
        "\n".join(f"{each}\t{each.key}" for each in survivors), encoding="utf-8"
    )
    real = [mutant for mutant in survivors if mutant.key not in EQUIVALENT]
    counted = len(chosen) - (len(survivors) - len(real))
    killed = counted - len(real)
    low, high = interval(killed, counted)
    share = f"{killed / counted:.0%} (95 %: {low:.0%} to {high:.0%})"
    said = f"{killed} of {counted} killed, {share}, out of {len(everything):,}"
    if real:
        said += "; survivors: " + ", ".join(map(str, real))
    return Row(PART, room, counted, killed / counted >= _LEAST_KILLED, said)


def choose(mutants: list[Mutant], count: int) -> list[Mutant]:
    """So many of them: at random, and yet the same ones where other places of the code have changed."""
    return sorted(mutants, key=lambda each: hashlib.sha256(f"{_SEED} {each.key}".encode()).digest())[:count]


def interval(killed: int, tried: int) -> tuple[float, float]:
    """Wilson's interval of confidence of 95 % for a share."""
    z, share = 1.96, killed / tried
    middle = (share + z * z / (2 * tried)) / (1 + z * z / tried)
    half = z / (1 + z * z / tried) * (share * (1 - share) / tried + z * z / (4 * tried * tried)) ** 0.5
    return middle - half, min(1.0, middle + half)


def list_mutants(room: str) -> list[Mutant]:
    """All that can be made of a room, annotations and imports for type checkers aside: they are never run."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    operators = {name: get_operator(name)() for name in sorted(operator_names()) if _is_plain(name)}
    found = []
    for path in sorted((PROJECT / PACKAGE / room).glob("*.py")):
        source = path.read_text(encoding="utf-8")
        idle = _idle_places(source)
        tree = get_ast(source)
        module = path.relative_to(PROJECT).as_posix()
        for name, operator in operators.items():
            places = (place for node in ast_nodes(tree) for place in operator.mutation_positions(node))
            for number, (start, _) in enumerate(places):
                if not any(begin <= start < end for begin, end in idle):
                    found.append(Mutant(module, name, number, start[0]))
    return found


def _is_plain(name: str) -> bool:
    """Operators that need no arguments; one binary operator for another, not for each of twelve."""
    kind = name.rpartition("/")[2]
    if kind.startswith("ReplaceBinaryOperator_"):
        return kind.removeprefix("ReplaceBinaryOperator_") in _BINARY
    return kind not in {"VariableReplacer", "VariableInserter", "RemoveDecorator"}


_BINARY = frozenset(
    {"Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul", "BitOr_BitAnd"}
) | {*("BitAnd_BitOr", "LShift_RShift", "RShift_LShift")}


def _idle_places(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations and the like are: begin and end, as line and column."""
    nodes: list[ast.AST] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            nodes.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            nodes.append(node.returns)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes.append(node)
    return [
        ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0))  # type: ignore[attr-defined]
        for node in nodes
    ]


def _try_all(room: str, mutants: list[Mutant], copy: Path) -> list[Mutant]:
    return [mutant for mutant in mutants if not _is_killed(room, mutant, copy)]


def _is_killed(room: str, mutant: Mutant, copy: Path) -> bool:
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = (PROJECT / mutant.module).read_text(encoding="utf-8")
    changed = mutate_code(source, get_operator(mutant.operator)(), mutant.occurrence)
    (copy / mutant.module).write_text(changed, encoding="utf-8")
    try:
        return any(_fails(tests, copy) for tests in _tests_of(room, mutant))
    finally:
        (copy / mutant.module).write_text(source, encoding="utf-8")


def _tests_of(room: str, mutant: Mutant) -> Iterator[list[str]]:
    own = Path("tests", room, f"test_{Path(mutant.module).name}")
    if (PROJECT / own).exists():
        yield [str(own)]
    yield [*ROOMS[room], f"--deselect={own}", "-p", "no:randomly"]


def _fails(tests: list[str], copy: Path) -> bool:
    environ = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "CI": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not real and not proof",
        *tests,
    ]
    with subprocess.Popen(
        command,
        cwd=copy,
        env=environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + _SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return True
        return process.returncode != 0
