"""Stand-ins for wandb and mlflow that keep what they are given."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class FakeWandB(ModuleType):
    """`wandb`: runs by id."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: dict[str, FakeRun] = {}
        self.modes: list[str | None] = []
        self.offline_only = False
        self.Settings = SimpleNamespace
        self.Image = lambda path: ("image", Path(path).name)

    def init(self, *, id: str, mode: str | None, **options: Any) -> FakeRun:
        self.modes.append(mode)
        if self.offline_only and mode != "offline":
            raise ConnectionError("no route to host")
        assert options["resume"] == "allow"
        run = self.runs.setdefault(id, FakeRun(id))
        run.options, run.exit_code, run.offline = options, None, mode == "offline"
        return run


class FakeRun:
    """A run of `FakeWandB`."""

    def __init__(self, number: str) -> None:
        self.url = f"https://wandb.example/{number}"
        self.disabled = False
        self.offline = False
        self.logged: list[dict[str, Any]] = []
        self.saved: list[str] = []
        self.metrics: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.options: dict[str, Any] = {}
        self.exit_code: int | None = None

    def define_metric(self, name: str, **more: Any) -> None:
        self.metrics[name] = more.get("step_metric")

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def save(self, path: str, *, base_path: str, policy: str) -> None:
        self.saved.append(Path(path).relative_to(base_path).as_posix())

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeMLflow(ModuleType):
    """`mlflow` with a client over dictionaries."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.uri = "sqlite:////somewhere/mlflow.db"
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, SimpleNamespace] = {}
        self.addresses: list[str] = []
        self.entities = SimpleNamespace(
            Metric=lambda key, value, timestamp, step: (key, value, step),
            Param=lambda key, value: (key, value),
        )
        self.tracking = SimpleNamespace(MlflowClient=self.client)

    def get_tracking_uri(self) -> str:
        return self.uri

    def client(self, tracking_uri: str) -> FakeMLflow:
        self.addresses.append(tracking_uri)
        return self

    def get_experiment_by_name(self, name: str) -> Any:
        number = self.experiments.get(name)
        return SimpleNamespace(experiment_id=number) if number else None

    def create_experiment(self, name: str) -> str:
        return self.experiments.setdefault(name, str(len(self.experiments) + 1))

    def create_run(self, experiment: str, run_name: str) -> Any:
        number = f"run{len(self.runs)}"
        self.runs[number] = SimpleNamespace(
            experiment=experiment, name=run_name, status="RUNNING",
            metrics=[], params={}, artifacts=[],
        )  # fmt: skip
        return SimpleNamespace(info=SimpleNamespace(run_id=number))

    def update_run(self, number: str, status: str) -> None:
        self.runs[number].status = status

    set_terminated = update_run

    def log_batch(self, number: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100
        assert all(len(value) <= 500 for _, value in params)
        self.runs[number].metrics += metrics
        self.runs[number].params.update(params)

    def log_artifact(self, number: str, path: str, folder: str = "") -> None:
        assert Path(path).is_file()
        self.runs[number].artifacts.append(Path(folder, Path(path).name).as_posix())


def install(monkeypatch: pytest.MonkeyPatch, module: Any) -> Any:
    """Has `import` find the fake; a login is there."""
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    module.__spec__ = ModuleSpec(module.__name__, None)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("entities", "tracking"):
        if hasattr(module, name):
            monkeypatch.setitem(sys.modules, f"{module.__name__}.{name}", getattr(module, name))
    return module
