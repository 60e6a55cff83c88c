"""Memory that is short, injected: the batch is split, the training stays what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from detrkit.engine import training
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.derive import TrainFlags, load_with_flags
from detrkit.engine.distributed.replicas import unwrapped
from detrkit.engine.keeper import Keeper
from detrkit.engine.trainer import Trainer
from detrkit.errors import DetrkitError, Interrupted
from tests.conftest import REPOSITORY
from tests.engine.test_trainer import Act, state_of
from tests.engine.tiny_data import write_coco, write_config
from tests.engine.toy import Net, equal, trainer

ON_A_CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 17179869184 bytes. Error code 12 (Cannot allocate memory)"
)
ON_A_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Narrow:
    """Images beyond `most` do not fit, from step `first` on, once the first layer is through."""

    def __init__(self, run: Trainer, error: BaseException, most: int, first: int = 0) -> None:
        self.run, self.error, self.most, self.first = run, error, most, first
        self.failed = 0
        net = unwrapped(run.model).net
        assert isinstance(net, torch.nn.Sequential)
        net[1].register_forward_hook(self)  # batch norm has learned from the images by then

    def __call__(self, module: Any, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        if self.run.state.step >= self.first and len(inputs[0]) > self.most:
            self.failed += 1
            raise self.error


@pytest.mark.parametrize("error", [ON_A_CPU, ON_A_GPU, MemoryError()])
def test_a_batch_that_does_not_fit_is_split(
    tmp_path: Path, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    split = trainer(tmp_path / "split", accumulate=2)
    split.fit()
    short = trainer(tmp_path / "short")
    narrow = Narrow(short, error, most=1)
    short.fit()
    assert narrow.failed == 1
    assert (short.accumulate, short.state.splits) == (1, 2)
    ours, theirs = (state_of(tmp_path / name) for name in ("split", "short"))
    assert theirs["position"].pop("splits") == 2  # type: ignore[attr-defined]
    assert ours["position"].pop("splits") == 1  # type: ignore[attr-defined]
    assert equal(ours, theirs)
    said = "out of memory with 2 images of 8x8: from now on in parts of 1 (accumulate: 2)"
    assert caplog.text.count("out of memory") == 1
    assert said in caplog.text


def test_a_resumed_run_stays_split(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    Narrow(whole, ON_A_CPU, most=1, first=3)
    whole.fit()
    first = trainer(tmp_path / "parts")
    Narrow(first, ON_A_CPU, most=1, first=3)
    first.observers = [
        *first.observers, Act(6, lambda: setattr(first.guard, "requested", True))
    ]  # fmt: skip
    with pytest.raises(Interrupted):
        first.fit()
    rest = trainer(tmp_path / "parts", first_epoch=1)
    rest.resume(Checkpoint.load(tmp_path / "parts" / "last.pth"))
    assert rest.parts == 2
    narrow = Narrow(rest, ON_A_CPU, most=1)
    assert rest.evaluator is not None
    rest.evaluator.calls = 1  # type: ignore[attr-defined]
    rest.fit()
    assert narrow.failed == 0
    assert equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))


def test_resume_with_other_parts_forgets_the_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_coco(tmp_path / "data", train=4, val=1)
    flags = TrainFlags(data=str(tmp_path / "data"), device="cpu", epochs=2)
    cfg = load_with_flags(write_config(tmp_path, REPOSITORY), flags)
    step, save = Trainer.train_step, Keeper.save_last
    parts = []

    def short(self: Trainer, batch: Any) -> Any:
        if self.parts == 1:
            raise ON_A_CPU
        return step(self, batch)

    def noted(self: Trainer, batch: Any) -> Any:
        parts.append(self.parts)
        raise KeyboardInterrupt

    def save_and_stop(self: Keeper, snapshot: Checkpoint) -> None:
        save(self, snapshot)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", short)
        patch.setattr(Keeper, "save_last", save_and_stop)
        with pytest.raises(Interrupted):
            training.train(cfg, output=tmp_path / "run")
    monkeypatch.setattr(Trainer, "train_step", noted)
    for accumulate in (None, 1, 2):
        with pytest.raises(Interrupted):
            training.resume(tmp_path / "run", accumulate=accumulate)
    assert parts == [2, 1, 2]


def test_not_even_one_image(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    narrow = Narrow(run, ON_A_CPU, most=0)
    with pytest.raises(
        DetrkitError, match=r"out of memory with 1 image of 8x8: .*17179869184"
    ) as e:
        run.fit()
    assert narrow.failed == 2
    assert "--size" in (e.value.hint or "")
    weights = {name: v for name, v in run.model.state_dict().items() if "1." not in name}
    assert equal(weights, {name: v for name, v in before.items() if "1." not in name})


def test_weights_that_are_half_updated_are_not_updated_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path)

    def fail() -> None:
        raise ON_A_GPU

    monkeypatch.setattr(run.optimizer, "step", fail)
    with pytest.raises(DetrkitError, match="while the weights were updated: CUDA out of memory"):
        run.fit()


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    Narrow(run, RuntimeError("shapes do not fit"), most=1)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run.fit()


def test_losses_see_float32_outside_of_autocast() -> None:
    from detrkit.engine.accumulation import Backward
    from detrkit.engine.amp import Precision
    from tests.engine.toy import Loader

    seen: list[tuple[torch.dtype, bool]] = []

    class Look(torch.nn.Module):
        def forward(self, outputs: Any, targets: Any, epoch: int = 0) -> Any:
            seen.append((outputs["pred"].dtype, torch.is_autocast_enabled("cpu")))
            return {"loss": outputs["pred"].sum()}

    cpu, precision = torch.device("cpu"), Precision("bf16")
    step = Backward(
        Net(), Look(), lambda: precision.autocast(cpu), precision.scaler(cpu), lambda part: None
    )
    step(next(iter(Loader())), 1, 0)
    assert seen == [(torch.float32, False)]
