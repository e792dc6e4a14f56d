"""Walk-forward windows: trained on what was before, tested on what came after, with a gap for what labels see."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from itertools import pairwise

from rdagent_sota_patch.bundle.expressions import parse
from rdagent_sota_patch.errors import SotaError

FEWEST_TEST_DAYS = 10
_FEWEST_VALID_DAYS = 10
_FEWEST_TRAIN_DAYS = 40


@dataclass(frozen=True, slots=True)
class Window:
    """One training and its test, as half-open ranges of positions among all days."""

    train: tuple[int, int]
    valid: tuple[int, int]
    test: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Walk:
    """How the windows are laid out.

    Attributes:
        windows: How many.
        horizon: Days that a label looks ahead: so many before a later segment have labels that see into it, and are
            left out (purged).
        embargo: Days that are left out besides.
        valid_share: Of a window's training days, how many are held out to stop the training early.
        rolling: Whether all windows train on as many days as the first; otherwise on all days before.
    """

    windows: int
    horizon: int
    embargo: int = 0
    valid_share: float = 0.2
    rolling: bool = False


def lay_windows(days: int, walk: Walk) -> tuple[Window, ...]:
    """The windows: the later half of all days, in equal parts, is tested on.

    Raises:
        SotaError: ``too-few-days-for-windows``.
    """
    first, gap = days // 2, walk.horizon + walk.embargo
    edges = [first + (days - first) * number // walk.windows for number in range(walk.windows + 1)]
    windows = []
    for start, end in pairwise(edges):
        last = start - gap
        held = max(_FEWEST_VALID_DAYS, round((last - gap) * walk.valid_share))
        stop = last - held - gap
        length = edges[0] - 2 * gap - max(_FEWEST_VALID_DAYS, round((edges[0] - 2 * gap) * walk.valid_share))
        begin = max(0, stop - length) if walk.rolling else 0
        windows.append(Window((begin, stop), (last - held, last), (start, end)))
    shortest = windows[0].train[1] - windows[0].train[0]
    tested = min(window.test[1] - window.test[0] for window in windows)
    if shortest < _FEWEST_TRAIN_DAYS or tested < FEWEST_TEST_DAYS:
        most = (days - first) // FEWEST_TEST_DAYS
        raise SotaError(
            "too-few-days-for-windows",
            f"{days} days with --windows {walk.windows}: the first would be trained on {max(0, shortest)} days, and "
            f"one tested on {tested}; {_FEWEST_TRAIN_DAYS} and {FEWEST_TEST_DAYS} are the least.",
            f"--windows {most} is the most for tests of that length."
            if shortest >= _FEWEST_TRAIN_DAYS and most
            else "Name data with more days.",
        )
    return tuple(windows)


def find_horizon(expression: str) -> int:
    """How many trading days a label looks ahead: 2 for ``Ref($close, -2)/Ref($close, -1) - 1``.

    Raises:
        BundleError: ``expression-refused``.
    """
    return _horizon(parse(expression))


def _horizon(node: ast.AST) -> int:
    inner = max((_horizon(child) for child in ast.iter_child_nodes(node)), default=0)
    match node:
        case ast.Call(
            func=ast.Name(id="Ref"), args=[_, ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=days))]
        ):
            return inner + int(str(days))
    return inner
