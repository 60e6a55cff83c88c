"""Starts `detrkit` commands that get killed, without a new import of torch for each.

    python -m tests.engine.kill_server FOLDER

A line of JSON on stdin starts a command in a forked process, in a process group of its own and
in FOLDER. This process itself only imports: torch's threads do not survive a fork.

    {"arguments": [...], "output": "out.txt", "kill": ["save", 3]}

The answers on stdout are its number, and once it has ended, its exit code. `null` ends the server:
the end of stdin may not come, since a loader process that a test forks has the pipe as well. With
`kill` a command kills its whole group at the third call of what is called so:

    create    a temporary file has been made
    save      half of a checkpoint is written
    sync      the file is written, not yet on the disk
    rename    just before the file gets its name
    renamed   just after
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from detrkit.cli.app import main as run
from detrkit.engine import curves
from detrkit.engine.evaluator import Evaluator
from tests.engine.plain import plain_curves
from tests.garbage import freeze

#: What a run imports only when it needs it.
HEAVY = (
    "detrkit.cli.train",
    "detrkit.engine.training",
    "matplotlib.backends.backend_agg",
    "torch.utils.tensorboard",
    "torchvision.transforms.v2",
)


def main() -> None:
    """Serves until it is told to end, or stdin does."""
    os.chdir(sys.argv[1])
    os.environ["DETRKIT_WATCHED"] = "1"  # no process of its own for --auto-resume
    _vary_scores()
    for name in HEAVY:
        importlib.import_module(name)
    curves.draw_curves = plain_curves
    freeze()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request is None:
            return
        child = os.fork()
        if not child:
            _serve(request)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _serve(request: dict[str, Any]) -> None:
    code = 70
    try:
        os.setsid()
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(output, number)
        if request.get("kill"):
            _kill_at(*request["kill"])
        code = run(request["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _vary_scores() -> None:
    """AP becomes a number drawn from the weights: which epoch is best, changes during the run."""
    measure = Evaluator.run

    def scored(self: Evaluator, model: torch.nn.Module, progress: Any = None) -> Any:
        metrics = measure(self, model, progress)
        digest = hashlib.sha256()
        for value in model.state_dict().values():
            digest.update(value.numpy().tobytes())
        score = int.from_bytes(digest.digest()[:4], "big") / 2**32
        return replace(metrics, values={**metrics.values, "AP": score})

    Evaluator.run = scored  # type: ignore[method-assign]


def _kill_at(event: str, number: int) -> None:
    calls = 0

    def due() -> bool:
        nonlocal calls
        calls += 1
        return calls == number

    def die() -> None:
        os.killpg(0, signal.SIGKILL)

    def wrapped(call: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            now = due()
            if now and not after:
                die()
            value = call(*args, **kwargs)
            if now:
                die()
            return value

        return wrapper

    def half_save(content: Any, file: Any) -> None:
        if not due():
            return save(content, file)
        buffer = io.BytesIO()
        save(content, buffer)
        file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        file.flush()
        return die()

    save = torch.save
    if event == "save":
        torch.save = half_save
    elif event == "create":
        tempfile.mkstemp = wrapped(tempfile.mkstemp, after=True)
    elif event == "sync":
        os.fsync = wrapped(os.fsync)
    else:
        os.replace = wrapped(os.replace, after=event == "renamed")


if __name__ == "__main__":
    main()
