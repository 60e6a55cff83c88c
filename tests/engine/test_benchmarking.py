"""Names, statistics and circumstances of `benchmark`; the command itself is in tests/cli."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detrkit.engine.benchmarking import BatchTimes, Candidate, Plan, Ratio, parse
from detrkit.engine.benchmarking.setting import Others, busy_before, busy_meanwhile, setting
from detrkit.engine.machine import Machine
from detrkit.errors import UsageError


class TestCandidates:
    @pytest.mark.parametrize(
        ("text", "candidate"),
        [
            ("runs/a/best.pth", Candidate("runs/a/best.pth", "runs/a/best.pth")),
            ("a=best.pth", Candidate("a", "best.pth")),
            ("best.pth+half", Candidate("best.pth+half", "best.pth", half=True)),
            ("x=m.onnx+provider=cpu", Candidate("x", "m.onnx", provider="cpu")),
            ("m.pth+compile+half", Candidate("m.pth+compile+half", "m.pth", True, True)),
            ("a+b.pth", Candidate("a+b.pth", "a+b.pth")),
            ("https://h/m.pth?a=b", Candidate("https://h/m.pth?a=b", "https://h/m.pth?a=b")),
        ],
    )
    def test_what_a_text_names(self, text: str, candidate: Candidate) -> None:
        assert parse([text]) == [candidate]

    def test_options_for_all(self) -> None:
        found = parse(["a.pth", "b.pth+compile"], half=True, provider="cpu")
        assert all(candidate.half and candidate.provider == "cpu" for candidate in found)
        assert [candidate.compiled for candidate in found] == [False, True]

    def test_files_whose_names_look_like_options(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("best.pth+half").touch()
        Path("a=b.pth").touch()
        assert parse(["best.pth+half", "a=b.pth"]) == [
            Candidate("best.pth+half", "best.pth+half"),
            Candidate("a=b.pth", "a=b.pth"),
        ]

    def test_one_name_for_two(self) -> None:
        with pytest.raises(UsageError, match="two candidates are called a"):
            parse(["a=x.pth", "a=y.pth"])

    @pytest.mark.parametrize(
        ("source", "expected"),
        [
            ("dfine_n_coco", True), ("my/model.yml", True), ("best.pth", False),
            ("hf://someone/model", False), ("exported.onnx", False),
        ],
    )  # fmt: skip
    def test_configurations(self, source: str, expected: bool) -> None:
        assert Candidate("a", source).is_config is expected


class TestNumbers:
    def test_percentiles_and_throughput(self) -> None:
        times = BatchTimes.of(4, [[0.001 * n for n in range(1, 51)], [0.001] * 50], None)
        assert times.calls == 100
        assert times.p50 == 1.0
        assert times.p90 == pytest.approx(41)
        assert times.p99 == pytest.approx(50)
        assert times.images_per_second == pytest.approx(4 * 100 / (1.275 + 0.05))

    def test_a_ratio_and_its_interval(self) -> None:
        rng = np.random.default_rng(0)
        first = [[0.02 * noise] for noise in rng.uniform(0.9, 1.1, 20)]
        twice = [[0.01 * noise] for noise in rng.uniform(0.9, 1.1, 20)]
        ratio = Ratio.of(1, first, twice)
        assert ratio.low < ratio.value < ratio.high
        assert ratio.value == pytest.approx(2, abs=0.15)
        assert ratio.verdict == "faster"
        assert Ratio.of(1, twice, first).verdict == "slower"
        assert Ratio.of(1, first, [list(each) for each in first[::-1]]).verdict == "may be chance"

    def test_what_slows_both_cancels_out(self) -> None:
        """A machine that becomes five times slower half way: the turns are compared as pairs."""
        slowness = [1.0] * 10 + [5.0] * 10
        ratio = Ratio.of(
            1, [[0.03 * slow] for slow in slowness], [[0.02 * slow] for slow in slowness]
        )
        assert ratio.low == pytest.approx(1.5)
        assert ratio.high == pytest.approx(1.5)


class TestPlan:
    @pytest.mark.parametrize(
        "values",
        [{"batches": []}, {"batches": [0]}, {"includes": "files"}, {"seconds": -1}, {"rounds": 0}],
    )
    def test_numbers_without_sense(self, values: dict[str, object]) -> None:
        with pytest.raises(UsageError):
            Plan(**values)  # type: ignore[arg-type]


class TestCircumstances:
    def test_setting(self) -> None:
        found = setting()
        assert found["cores"] >= 1
        assert "torch" in found["versions"]

    def test_a_system_that_tells_nothing(self, tmp_path: Path) -> None:
        found = setting(tmp_path)
        assert (found["governor"], found["mhz"]) == (None, [])
        assert Others(tmp_path).share([]) is None

    def test_what_the_system_tells(self, tmp_path: Path) -> None:
        folder = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text("performance\n", encoding="utf-8")
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/cpuinfo").write_text("cpu MHz : 2500.5\n", encoding="utf-8")
        found = setting(tmp_path)
        assert (found["governor"], found["mhz"]) == ("performance", [2500.5])

    def test_others(self, tmp_path: Path) -> None:
        """Busy time of all programs less one's own."""
        pytest.importorskip("resource")
        (tmp_path / "proc").mkdir()
        stat = tmp_path / "proc/stat"
        stat.write_text("cpu 100 0 0 900 0 0 0 0 0 0\n", encoding="ascii")
        others = Others(tmp_path)
        stat.write_text("cpu 1000000 0 0 900 0 0 0 0 0 0\n", encoding="ascii")
        assert (others.share([]) or 0) > 1  # in next to no time
        assert others.share([1e9]) == 0

    def test_warnings(self) -> None:
        assert busy_before(Machine(cores=4, load=0.1)) is None
        assert busy_before(Machine(cores=4, load=None)) is None
        assert "busy" in (busy_before(Machine(cores=4, load=3.0)) or "")
        assert busy_meanwhile(None) is busy_meanwhile(0.01) is None
        assert "35 %" in (busy_meanwhile(0.35) or "")
