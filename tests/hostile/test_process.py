from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

from tests.sessions.forged import Made, called, factor_experiment, feedback, put, saved_loop

READER = """
import sys
from pathlib import Path
from rdagent_sota_patch.sessions import read_session
import rdagent_sota_patch.sessions.opcodes
events = []
sys.addaudithook(lambda event, _: events.append(event))
session = read_session(Path(sys.argv[1]))
modules = {name.partition(".")[0] for name in sys.modules}
print(len(session.experiments), sorted(set(events)), sorted(modules & {"pandas", "numpy", "rdagent", "trap"}))
"""


def test_the_same_bytes_do_run_under_pickle(tmp_path: Path) -> None:
    """The corpus is live: plain pickle runs it, so that reading it safely means something."""
    owned = tmp_path / "owned"
    file = tmp_path / "file"
    file.write_bytes(called("os", "system", f"touch '{owned}'"))
    script = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(file)], check=True)
    assert owned.exists()


def test_a_hostile_session_in_a_fresh_process(tmp_path: Path) -> None:
    """Reading one opens the log's files and nothing else: no import, no process, no find_class."""
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    bad = [
        Made("os", "system", ("touch owned",)),
        Made("trap", "Trap"),
        Made("pandas", "read_pickle", ("x",)),
    ]
    log = tmp_path / "log" / "run"
    put(log, 0, "0_record", saved_loop((factor_experiment("A", extra=bad), feedback(True))))
    done = subprocess.run(
        [sys.executable, "-c", READER, str(log)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    count, _, rest = done.stdout.strip().partition(" ")
    assert count == "1"
    # builtins.id is the reader's own look-up of what it has met before.
    assert rest == "['builtins.id', 'open', 'os.scandir'] []"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "trap.py"]


def test_pickles_of_this_process_still_work() -> None:
    """Reading hostile files leaves pickle itself as it was."""
    from rdagent_sota_patch.sessions.inert import read_inert

    read_inert(called("pathlib", "PosixPath", "/a"))
    assert pickle.loads(pickle.dumps(Path("/a"))) == Path("/a")
