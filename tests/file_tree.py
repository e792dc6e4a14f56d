"""Write docs/files.md: every module with the first line of its docstring. ``python -m tests.file_tree``."""

from __future__ import annotations

import ast
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "rdagent_sota_patch"
PAGE = PROJECT / "docs" / "files.md"


def render_tree() -> str:
    """The page: the modules beside the rooms, then one room after the other."""
    rooms = sorted(path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())
    parts = ["# Files\n", "Every module with its first line; `make files` writes this page.\n"]
    parts += _lines("Beside the rooms", PACKAGE, "")
    for room in rooms:
        parts += _lines(f"`{room.name}`", room, _first_line(room / "__init__.py"))
    return "\n".join(parts)


def _lines(title: str, folder: Path, text: str) -> list[str]:
    files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    lines = [f"- `{path.name}`: {_first_line(path)}" for path in files]
    return [f"## {title}\n", *([f"{text}\n"] if text else []), "\n".join(lines) + "\n"]


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(render_tree(), encoding="utf-8")
