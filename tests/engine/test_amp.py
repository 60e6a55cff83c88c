"""Mixed precision."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch

from detrkit.engine import amp
from detrkit.engine.amp import Precision
from detrkit.errors import UsageError
from detrkit.ops.precision import upcast

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amp, "cpu_computes_bf16", lambda: False)
    assert Precision.choose(None, True, CPU).amp == "off"
    monkeypatch.setattr(amp, "cpu_computes_bf16", lambda: True)
    assert Precision.choose(None, True, CPU).amp == "bf16"
    assert Precision.choose(None, False, CPU).amp == "off"
    assert Precision.choose(None, False, CUDA).amp == "off"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    assert Precision.choose(None, True, CUDA).amp == "bf16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: False)
    assert Precision.choose(None, True, CUDA).amp == "fp16"


def test_asked_for() -> None:
    assert Precision.choose("bf16", False, CPU).amp == "bf16"
    assert Precision.choose("off", True, CUDA).amp == "off"
    with pytest.raises(UsageError, match="needs a GPU"):
        Precision.choose("fp16", True, CPU)
    with pytest.raises(UsageError, match="choose bf16"):
        Precision.choose("fp8", True, CPU)


def test_only_fp16_scales() -> None:
    assert not Precision("bf16").scaler(CPU).is_enabled()
    assert not Precision("off").scaler(CPU).is_enabled()
    assert Precision("fp16").scaler(CPU).is_enabled()


def test_autocast_on_the_cpu() -> None:
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with Precision("bf16").autocast(CPU):
        assert layer(x).dtype == torch.bfloat16
    with Precision("off").autocast(CPU):
        assert layer(x).dtype == torch.float32


def test_upcast_keeps_structure_and_other_types() -> None:
    pair = namedtuple("pair", "a b")
    half, number = torch.ones(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.int64)
    out = upcast({"x": [half, (half, number)], "n": 3, "none": None})
    assert out["x"][0].dtype == torch.float32
    assert out["x"][1][0].dtype == torch.float32
    assert out["x"][1][1] is number
    assert (out["n"], out["none"]) == (3, None)
    assert upcast(pair(half, 1)).a.dtype == torch.float32


def test_a_cpu_is_asked_for_what_it_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in amp._BF16_FEATURES:
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not amp.cpu_computes_bf16()
    monkeypatch.setattr(torch.cpu, amp._BF16_FEATURES[0], lambda: True, raising=False)
    assert amp.cpu_computes_bf16()
