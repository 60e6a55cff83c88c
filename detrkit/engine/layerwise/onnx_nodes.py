"""Time of the nodes of an ONNX file, by ONNX Runtime's own profiler."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WARM_UP = 3
_SUFFIX = "_kernel_time"


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One node of the graph as ONNX Runtime optimized it.

    Attributes:
        scope: module of the detector that it comes from: "backbone.stages.0"; "" for nodes that
            the runtime added, e.g. to change a layout.
        operator: its type: "Conv".
        milliseconds: of a pass: the median of its calls, times their number.
        calls: in a pass.
    """

    scope: str
    operator: str
    milliseconds: float
    calls: float


def time_nodes(
    session_of: Callable[[Any], Any], run: Callable[[Any], object], *, passes: int = 10
) -> list[NodeTime]:
    """Runs a file under the profiler.

    Args:
        session_of: opens it with `SessionOptions`.
        run: a pass of a session.
        passes: that count, behind three others.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="detrkit-") as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = session_of(options)
        for _ in range(_WARM_UP + passes):
            run(session)
        file = Path(session.end_profiling())
        events = json.loads(file.read_text(encoding="utf-8"))
    return node_times(events, passes)


def node_times(events: list[dict[str, Any]], passes: int) -> list[NodeTime]:
    """Nodes of the last passes of a profile.

    Args:
        events: as ONNX Runtime writes them.
        passes: that count.
    """
    runs = sorted(event["ts"] for event in events if event.get("name") == "model_run")
    since = runs[-passes] if len(runs) >= passes else 0
    found: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith(_SUFFIX) or event["ts"] < since:
            continue
        key = name.removesuffix(_SUFFIX), str(event.get("args", {}).get("op_name", ""))
        found.setdefault(key, []).append(event["dur"] / 1000)
    return [
        NodeTime(scope_of(name), operator, statistics.median(times) * calls, calls)
        for (name, operator), times in found.items()
        for calls in [len(times) / passes]
    ]


def scope_of(node: str) -> str:
    """`decoder.decoder/MatMul_2`, `/model/backbone/stem/Conv` -> the module, by dots."""
    parts = [part for part in node.replace("/", ".").split(".") if part]
    scope = parts[:-1] if "/" in node else []
    if scope[:1] == ["model"]:
        scope = scope[1:]
    return ".".join(scope)
