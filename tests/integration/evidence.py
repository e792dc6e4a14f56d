"""What a model was really trained on, read from what Qlib left behind rather than from what was logged."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdagent_sota_patch.demo.sandbox import Sandbox
from rdagent_sota_patch.sessions.records import Session
from rdagent_sota_patch.sessions.signature import MAGIC

# What a reader does: it imports, and then answers each question in a fork of its own, which knows nothing of the
# others and is as good as a new interpreter. A question that is not answered within minutes ends by its alarm.
_SERVE = """
import importlib, json, os, signal, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for name in sys.argv[1:]:
    importlib.import_module(name)
for line in sys.stdin:
    asked = json.loads(line)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(300)
            for number, name in ((1, "out"), (2, "errors")):
                os.dup2(os.open(asked[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
            os.chdir(asked["folder"])
            sys.path.insert(0, asked["folder"])
            sys.argv = ["-c", *asked["arguments"]]
            exec(asked["code"], {"__name__": "__main__"})
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
"""

_LOOK = """
import json, pickle, sys
artifacts = sys.argv[1]
task = pickle.load(open(artifacts + "/task", "rb"))
model = pickle.load(open(artifacts + "/params.pkl", "rb"))
dataset = pickle.load(open(artifacts + "/dataset", "rb"))
network = model.dnn_model
first = next(iter(network.parameters()))
handler = dataset.handler
(norm,) = (step for step in handler.infer_processors if type(step).__name__ == "RobustZScoreNorm")
# The baseline of RD-Agent 0.8.0 is Qlib's own handler, whose loaders are not named in the task.
named = task["dataset"]["kwargs"]["handler"]["kwargs"].get("data_loader")
loaders = named["kwargs"]["dataloader_l"] if named else []
print(json.dumps({
    "num_features": task["model"]["kwargs"]["pt_model_kwargs"]["num_features"],
    "input_size": int(first.shape[-1]),
    "fitted": [str(name[1]) for name in norm.cols],
    "loaders": [loader["class"] for loader in loaders],
    "feature_names": loaders[0]["kwargs"]["config"].get("feature", [[], []])[1] if loaders else [],
    "dataset": task["dataset"]["class"],
}))
"""


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model's input, by its recorder (``task``), its weights and its fitted processors."""

    workspace: Path
    num_features: int
    input_size: int
    fitted: tuple[str, ...]
    loaders: tuple[str, ...]
    feature_names: tuple[str, ...]
    dataset: str


@dataclass(frozen=True, slots=True)
class Reader:
    """A process that has imported what takes long to import, and reads evidence in forks of itself."""

    process: subprocess.Popen[str]
    folder: Path

    def read(self, code: str, *arguments: str, folder: Path) -> str:
        """Run ``code`` in ``folder``, modules there included; returns the last line that it prints."""
        assert self.process.stdin is not None and self.process.stdout is not None
        out, errors = self.folder / "out.txt", self.folder / "errors.txt"
        question = {
            "code": code,
            "arguments": arguments,
            "folder": str(folder),
            "out": str(out),
            "errors": str(errors),
        }
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert answer, (self.folder / "reader.txt").read_text(encoding="utf-8", errors="replace")[-2000:]
        assert answer == "0", (answer, errors.read_text(encoding="utf-8", errors="replace")[-2000:])
        return out.read_text(encoding="utf-8").splitlines()[-1]


_readers: dict[str, Reader] = {}


@contextmanager
def readers() -> Iterator[None]:
    """Readers live until this is left."""
    try:
        yield
    finally:
        for reader in _readers.values():
            with reader.process as process:
                process.kill()
        _readers.clear()


def _reader(sandbox: Sandbox, name: str, imports: tuple[str, ...], settings: dict[str, str]) -> Reader:
    """The reader of that name, begun when it is first asked for."""
    if name not in _readers:
        folder = sandbox.folder / f"reader-{name}"
        folder.mkdir()
        with (folder / "reader.txt").open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, *imports],
                cwd=sandbox.project,
                env=sandbox.environment(name, settings),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
        _readers[name] = Reader(process, folder)
    return _readers[name]


def model_reader(sandbox: Sandbox) -> Reader:
    """One that knows torch and Qlib, for what a back-test left."""
    imports = ("torch", "qlib", "qlib.contrib.model.pytorch_general_nn", "qlib.contrib.data.loader")
    return _reader(sandbox, "look", imports, {})


def plain_reader(sandbox: Sandbox) -> Reader:
    """One with an RD-Agent that has never heard of the plugin."""
    imports = ("rdagent.app.qlib_rd_loop.model", "streamlit", "plotly.express", "plotly.subplots")
    return _reader(sandbox, "load", imports, {"RDAGENT_SOTA_DISABLE": "true"})


def look_at_training(sandbox: Sandbox, session: Session, position: int = -1) -> Trained:
    """Load the recorder of an experiment of ``session``; in a process of its own, as it runs the model's code."""
    workspace = Path(str(session.experiments[position].workspace))
    (artifacts,) = workspace.glob("mlruns/*/*/artifacts")
    output = model_reader(sandbox).read(_LOOK, str(artifacts), folder=workspace)
    found: dict[str, Any] = json.loads(output)
    return Trained(
        workspace=workspace,
        num_features=int(found["num_features"]),
        input_size=found["input_size"],
        fitted=tuple(found["fitted"]),
        loaders=tuple(found["loaders"]),
        feature_names=tuple(found["feature_names"]),
        dataset=found["dataset"],
    )


def usage_of(session: Session, position: int = -1) -> dict[str, Any]:
    """``sota_source.json`` of an experiment's workspace."""
    workspace = Path(str(session.experiments[position].workspace))
    return dict(json.loads((workspace / "sota_source.json").read_text(encoding="utf-8")))


def run_tool(sandbox: Sandbox, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run ``rdagent-sota`` in the sandbox's project, as its user would."""
    program = Path(sys.executable).with_name("rdagent-sota")
    return subprocess.run(
        [str(program), *arguments],
        cwd=sandbox.project,
        env=sandbox.environment("tool", settings),
        capture_output=True,
        text=True,
        check=False,
    )


def load_snapshot(sandbox: Sandbox, snapshot: Path, *, plugin: bool) -> str:
    """Have RD-Agent itself load a snapshot; returns its runner's class, and the module that develops."""
    code = (
        "import sys\n"
        "from rdagent.app.qlib_rd_loop.model import ModelRDLoop\n"
        "runner = ModelRDLoop.load(sys.argv[1]).runner\n"
        "ours = any(name.startswith('rdagent_sota_patch.plugin') for name in sys.modules)\n"
        "print(type(runner).__module__, type(runner).__qualname__, type(runner).develop.__module__, ours)\n"
    )
    if not plugin:
        return plain_reader(sandbox).read(code, str(snapshot), folder=sandbox.project)
    result = subprocess.run(
        [sys.executable, "-c", code, str(snapshot)],
        cwd=sandbox.project,
        env=sandbox.environment("load"),
        check=True,
        capture_output=True,
        text=True,
    )
    return result.stdout.splitlines()[-1]


def global_names(snapshot: Path) -> set[str]:
    """Every module that a snapshot's pickle names, by pickletools: nothing is loaded."""
    import pickletools

    payload = snapshot.read_bytes()
    if payload.startswith(MAGIC):
        payload = payload[len(MAGIC) + 32 :]
    assert payload[:1] == pickle.PROTO
    strings: list[str] = []
    modules: set[str] = set()
    for opcode, argument, _ in pickletools.genops(payload):
        if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE"):
            strings.append(str(argument))
        elif opcode.name == "GLOBAL":
            modules.add(str(argument).split(" ", maxsplit=1)[0])
        elif opcode.name == "STACK_GLOBAL":
            # Module and name are among the last strings pushed or recalled; any string may be a module.
            modules.update(strings[-2:])
    return modules
