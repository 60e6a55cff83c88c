"""Which epoch becomes best_oa.pth: as if the weights of all epochs had been kept."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.oa_candidates import Candidate, CandidateFiles, chosen
from detrkit.engine.run_dir import RunDirectory

EPOCHS = st.lists(
    st.tuples(
        st.sampled_from([0.1, 0.11, 0.115, 0.2, 0.205, 0.21]),
        st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        st.sampled_from([0.3, 0.6]),
    ),
    min_size=1,
    max_size=9,
)


def weights(epoch: int, ap: float | None) -> Checkpoint:
    metrics = {} if ap is None else {"AP": ap}
    return Checkpoint(model={"w": torch.tensor(float(epoch))}, last_epoch=epoch, metrics=metrics)


def numbers(fppi: float, max_score: float) -> dict[str, float]:
    return {"oa_fppi": fppi, "oa_max_score": max_score}


def feed(files: CandidateFiles, epoch: int, values: tuple[float, float, float]) -> None:
    ap, fppi, max_score = values
    files.settle(files.add(weights(epoch, ap), 10 * epoch).path, numbers(fppi, max_score))


@settings(max_examples=40)
@given(EPOCHS, st.integers(0, 8))
def test_as_if_everything_were_kept(epochs: list[tuple[float, float, float]], cut: int) -> None:
    """After every epoch, also where the run was interrupted in between."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(Path(folder))
        files = CandidateFiles(run, 0.01)
        files.begin(0, None)
        history: list[Candidate] = []
        for epoch, values in enumerate(epochs):
            if epoch == cut:
                best = max((c.ap for c in history), default=None)
                files = CandidateFiles(run, 0.01)
                assert files.begin(epoch, best) == []
            feed(files, epoch, values)
            history.append(Candidate(epoch, *values))
            expected = chosen(history, max(c.ap for c in history), 0.01)
            assert expected is not None
            found = Checkpoint.load(run.best_oa)
            assert found.last_epoch == expected.epoch
            assert found.weights["w"] == expected.epoch
            assert found.metrics["oa_fppi"] == expected.fppi
            kept = sorted(run.oa_candidates.iterdir())
            assert kept == [files.path(c.epoch) for c in files.candidates]
        files.clear()
        assert not run.oa_candidates.exists()
        assert run.best_oa.is_file()


def test_the_rule() -> None:
    def choose(*epochs: tuple[float, float, float]) -> int:
        found = [Candidate(i, *values) for i, values in enumerate(epochs)]
        best = chosen(found, max(c.ap for c in found), 0.01)
        assert best is not None
        return best.epoch

    assert choose((0.5, 1.0, 0.9), (0.49, 0.5, 0.9)) == 1  # the edge belongs to it
    assert choose((0.5, 1.0, 0.9), (0.489, 0.0, 0.1)) == 0
    assert choose((0.5, 1.0, 0.9), (0.5, 1.0, 0.8)) == 1
    assert choose((0.495, 1.0, 0.9), (0.5, 1.0, 0.9)) == 1
    assert choose((0.5, 1.0, 0.9), (0.5, 1.0, 0.9)) == 0


def test_an_epoch_passed_over_may_return(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    files = CandidateFiles(run, 0.01)
    files.begin(0, None)
    feed(files, 0, (0.300, 0.1, 0.5))
    feed(files, 1, (0.309, 0.2, 0.5))  # better AP, more false detections
    assert Checkpoint.load(run.best_oa).last_epoch == 0
    feed(files, 2, (0.315, 0.9, 0.9))  # now epoch 0 is too far below
    assert Checkpoint.load(run.best_oa).last_epoch == 1


def test_without_ap_there_is_no_best(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    files = CandidateFiles(run, 0.01)
    files.begin(0, None)
    for epoch, ap in enumerate((None, -1.0)):
        added = files.add(weights(epoch, ap), 0)
        files.settle(added.path, numbers(0, 0))
        assert not added.path.exists()
    assert not run.best_oa.exists()


def test_what_waits_survives_and_what_is_done_again_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = RunDirectory(tmp_path)
    files = CandidateFiles(run, 0.01)
    files.begin(0, None)
    feed(files, 0, (0.3, 0.5, 0.5))
    feed(files, 1, (0.3, 0.1, 0.5))
    waiting = files.add(weights(2, 0.31), 20)
    assert Checkpoint.load(run.best_oa).last_epoch == 1
    (run.oa_candidates / "epoch_0009.pth").write_bytes(b"torn")

    again = CandidateFiles(run, 0.01)
    assert again.begin(3, 0.31) == [waiting]
    assert "epoch_0009.pth is damaged" in caplog.text
    assert [c.epoch for c in again.candidates] == [1]

    earlier = CandidateFiles(run, 0.01)  # resumed from epoch_0001.pth
    assert earlier.begin(1, 0.3) == []
    assert not run.best_oa.exists()
    assert list(run.oa_candidates.iterdir()) == []
