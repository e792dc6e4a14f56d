"""Programs that do as they should, and how the others end."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.sandbox.supervision import Ending


def test_a_program_reads_its_inputs_and_leaves_its_outputs(jail: Jail, tmp_path: Path) -> None:
    """Inputs stand in its folder by name, folders with all beneath; prints are kept; outputs come out."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "note").write_text("there")
    (tmp_path / "word").write_text("hello")
    ran = jail.run(
        "import sys\n"
        "print('said'); print('warned', file=sys.stderr)\n"
        "open('out.txt', 'w').write(open('word').read() + open('folder/note').read())",
        inputs={"word": tmp_path / "word", "folder": tmp_path / "deep"},
        outputs=["out.txt"],
    )
    assert ran.outputs["out.txt"].read_text() == "hellothere"
    assert sorted(ran.log.split()) == ["said", "warned"]
    assert ran.seconds > 0


def test_a_program_is_what_python_makes_of_a_script(jail: Jail) -> None:
    """Its folder is where it runs and comes first for imports; packages are there."""
    ran = jail.run(
        "import os, sys, importlib.util as found\n"
        "open('neighbour.py', 'w').write('word = 1')\n"
        "import neighbour\n"
        "assert __name__ == '__main__' and os.path.basename(__file__) == sys.argv[0] == 'program.py'\n"
        "assert os.environ['HOME'] == os.getcwd() and 'PATH' not in os.environ\n"
        "print(found.find_spec('pandas') is not None)\n"
        "print('ümlaut')"
    )
    assert ran.log.split() == ["True", "ümlaut"]


def test_the_environment_stays_outside(jail: Jail, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys live in variables."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert "secret" not in jail.run("import os; print(dict(os.environ))").log


def test_a_failure_shows_the_end_of_the_traceback(jail: Jail) -> None:
    """Whoever wrote the program needs that line."""
    with pytest.raises(
        BundleError, match=r"The model failed with exit code 1: .*KeyError: 'no column'"
    ) as caught:
        jail.run("raise KeyError('no column')", subject="The model")
    assert caught.value.slug == "program-failed"


def test_missing_and_unreal_outputs_are_told_apart(jail: Jail) -> None:
    """All of them at once, with their fault."""
    program = (
        "import os; os.mkdir('a'); os.mkfifo('b'); os.symlink('b', 'd'); open('e', 'w'); os.link('e', 'f')"
    )
    attempt = jail.attempt(program, outputs=["a", "b", "c", "d", "e"])
    assert attempt.unfit == {
        "a": "it is not a plain file",
        "b": "it is not a plain file",
        "c": "it is missing",
        "d": "it is not a plain file",
        "e": "it is not a plain file",
    }
    with pytest.raises(BundleError, match="c: it is missing") as caught:
        jail.run(program, outputs=["c"])
    assert caught.value.slug == "program-bad-output"


def test_an_input_that_is_not_there_is_said_before_anything_runs(jail: Jail, tmp_path: Path) -> None:
    """With its name."""
    with pytest.raises(BundleError, match="gone\\.h5") as caught:
        jail.run("", inputs={"data": tmp_path / "gone.h5"})
    assert caught.value.slug == "confinement-failed"


def test_a_copy_can_be_changed_and_the_original_stays(jail: Jail, tmp_path: Path) -> None:
    """For code that opens its data for writing."""
    source = tmp_path / "data"
    source.write_text("whole")
    attempt = jail.attempt("open('data', 'w').write('cut')", own_copies={"data": source}, outputs=["data"])
    assert attempt.ended.ending is Ending.FINISHED
    assert attempt.outputs["data"].read_text() == "cut"
    assert source.read_text() == "whole"


def test_many_threads_share_one_jail(jail: Jail) -> None:
    """Each run has its own folder."""
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda n: jail.run(f"open('o', 'w').write('{n}')", outputs=["o"]), range(8)))
    assert [ran.outputs["o"].read_text() for ran in runs] == [str(n) for n in range(8)]


def test_nothing_is_left_on_disk_or_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a chain of folders too deep to be named, or one that nobody may enter."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    descriptors = len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0
    threads = set(threading.enumerate())
    with Jail() as jail:
        attempt = jail.attempt(
            "import os\n"
            "os.mkdir('locked', 0)\n"
            "for _ in range(1500):\n"
            "    os.mkdir('deep'); os.chdir('deep')\n"
            "open('file', 'w')"
        )
        assert attempt.ended.code in (0, None)
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
    assert set(threading.enumerate()) <= threads
    if sys.platform == "linux":
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_disk_without_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything runs."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(BundleError, match="TMPDIR") as caught:
        Jail()
    assert caught.value.slug == "confinement-failed"


@pytest.mark.parametrize("bound", ["seconds", "memory_mb", "output_mb", "log_kb"])
def test_a_limit_of_nothing_is_refused(bound: str) -> None:
    """It would end everything."""
    with pytest.raises(ValueError, match=bound):
        Limits(**{bound: 0})  # type: ignore[arg-type]
