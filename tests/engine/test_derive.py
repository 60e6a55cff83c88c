"""What a flag changes besides itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from detrkit.config import Config, load_config
from detrkit.engine.derive import TrainFlags, derive_schedule, load_with_flags, parse_size
from detrkit.errors import UsageError
from tests.conftest import REPOSITORY

N = REPOSITORY / "configs" / "dfine" / "dfine_hgnetv2_n_coco.yml"
DEIMV2 = REPOSITORY / "configs" / "deimv2" / "deimv2_hgnetv2_s_coco.yml"


def flags(path: Path = N, update: tuple[str, ...] = (), **values: object) -> Config:
    return load_with_flags(path, TrainFlags(**values), update=update)  # type: ignore[arg-type]


def test_no_flags_change_nothing() -> None:
    plain = load_config(N)
    assert flags().tree == plain.tree
    assert derive_schedule(plain, 100).tree == plain.tree


def test_tune_takes_as_many_epochs_as_it_needs() -> None:
    cfg = flags(choose_epochs=True)
    assert (cfg.run.epochs, cfg.run.schedule, cfg.run.base_epochs) == (None, "auto", 160)
    assert derive_schedule(cfg, 20).run.epochs == 50
    assert derive_schedule(cfg, 20).tree == derive_schedule(flags(epochs=50), 20).tree
    assert str(derive_schedule(cfg, 20).origin("epochs")) == "schedule: auto"


def test_tune_does_not_choose_what_the_user_said(tmp_path: Path) -> None:
    assert flags(choose_epochs=True, epochs=7).run.epochs == 7
    said = flags(choose_epochs=True, update=("epoches=7",))
    assert (said.run.epochs, said.run.schedule) == (7, None)
    assert flags(REPOSITORY / "configs" / "quickstart.yml", choose_epochs=True).run.epochs == 9
    own, inherits = tmp_path / "own.yml", tmp_path / "inherits.yml"
    own.write_text(f"__include__: [{N.as_posix()}]\nepochs: 33\n")
    inherits.write_text(f"__include__: [{own.as_posix()}]\n")
    assert flags(own, choose_epochs=True).run.epochs == 33
    assert flags(inherits, choose_epochs=True).run.epochs is None


def test_epochs_derive_the_schedule() -> None:
    cfg = derive_schedule(flags(epochs=50), 36)
    assert cfg.get("train_dataloader.collate_fn.stop_epoch") == 44
    assert cfg.get("train_dataloader.dataset.transforms.policy.epoch") == 44
    assert cfg.get("lr_warmup_scheduler.warmup_duration") == 90
    assert cfg.get("ema.decay") == pytest.approx(1 - 20 / 1800, abs=1e-6)
    assert cfg.get("ema.warmups") == 45
    assert str(cfg.origin("ema.decay")) == "schedule: auto"


def test_epochs_derive_every_window_of_deim() -> None:
    cfg = derive_schedule(flags(DEIMV2, epochs=12), 50)
    assert cfg.run.base_epochs == 132
    assert cfg.get("train_dataloader.dataset.transforms.policy.epoch") == [1, 6, 11]
    assert cfg.get("train_dataloader.collate_fn.mixup_epochs") == [1, 6]
    assert cfg.get("train_dataloader.collate_fn.copyblend_epochs") == [1, 11]
    assert cfg.get("train_dataloader.collate_fn.stop_epoch") == 11
    assert cfg.get("DEIMCriterion.matcher.matcher_change_epoch") == 9
    assert (cfg.get("flat_epoch"), cfg.get("no_aug_epoch")) == (6, 1)
    assert cfg.get("warmup_iter") == 30
    assert cfg.get("ema.decay") == pytest.approx(1 - 20 / 600, abs=1e-6)
    assert cfg.get("train_dataloader.collate_fn.ema_restart_decay") == cfg.get("ema.decay")
    update = ("flat_epoch=3", "train_dataloader.collate_fn.mixup_epochs=[0,2]")
    own = derive_schedule(flags(DEIMV2, epochs=12, update=update), 50)
    assert own.get("flat_epoch") == 3
    assert own.get("train_dataloader.collate_fn.mixup_epochs") == [0, 2]
    assert own.get("no_aug_epoch") == 1


def test_the_files_own_length_changes_no_epoch() -> None:
    cfg = derive_schedule(flags(DEIMV2, epochs=132), 3696)
    plain = load_config(DEIMV2)
    for key in ("train_dataloader", "DEIMCriterion", "flat_epoch", "warmup_iter", "ema"):
        assert cfg.get(key) == plain.get(key)


def test_update_wins_over_what_is_derived() -> None:
    cfg = derive_schedule(flags(epochs=50, update=("ema.decay=0.99",)), 36)
    assert cfg.get("ema.decay") == 0.99
    assert cfg.get("ema.warmups") == 45


def test_values_beside_schedule_auto_stay(tmp_path: Path) -> None:
    file = tmp_path / "mine.yml"
    file.write_text(
        f"__include__: [{N.as_posix()}]\nepochs: 50\nschedule: auto\n"
        "lr_warmup_scheduler: {warmup_duration: 10}\n"
    )
    cfg = derive_schedule(load_config(file), 36)
    assert cfg.get("lr_warmup_scheduler.warmup_duration") == 10
    assert cfg.get("train_dataloader.collate_fn.stop_epoch") == 44
    again = derive_schedule(load_with_flags(file, TrainFlags(epochs=10)), 36)
    assert again.get("lr_warmup_scheduler.warmup_duration") == 10
    assert again.get("train_dataloader.collate_fn.stop_epoch") == 9


def test_a_resolved_configuration_is_not_derived_again() -> None:
    cfg = derive_schedule(flags(epochs=50, update=("ema.decay=0.99",)), 36)
    stored = Config.from_tree(cfg.tree, name="stored")
    assert derive_schedule(stored, 36).tree == cfg.tree
    assert derive_schedule(stored, 99).tree == cfg.tree


def test_batch_scales_rates_by_the_square_root() -> None:
    plain, cfg = load_config(N), flags(batch=8)  # the file says 128
    assert cfg.get("train_dataloader.total_batch_size") == 8
    assert cfg.get("optimizer.lr") == pytest.approx(plain.get("optimizer.lr") / 4)
    assert cfg.get("optimizer.params.0.lr") == pytest.approx(plain.get("optimizer.params.0.lr") / 4)
    sgd = flags(batch=8, update=("optimizer={type: SGD, lr: 0.16}",))
    assert sgd.get("optimizer.lr") == 0.16  # --update comes last


def test_lr_moves_all_groups_and_replaces_the_batch_rule() -> None:
    cfg = flags(batch=8, lr=1e-4)
    assert cfg.get("optimizer.lr") == 1e-4
    assert cfg.get("optimizer.params.0.lr") == pytest.approx(5e-5)
    with pytest.raises(UsageError, match="positive"):
        flags(lr=-1.0)


def test_size_reaches_every_part() -> None:
    cfg = flags(size="320x640")
    assert cfg.get("eval_spatial_size") == [320, 640]
    for loader in ("train_dataloader", "val_dataloader"):
        sizes = [op["size"] for op in cfg.get(f"{loader}.dataset.transforms.ops") if "size" in op]
        assert sizes == [[320, 640]]


@pytest.mark.parametrize(
    ("text", "size"),
    [("640", [640, 640]), ("480x640", [480, 640]), ("480×640", [480, 640]), ("64,96", [64, 96])],
)
def test_sizes(text: str, size: list[int]) -> None:
    assert list(parse_size(text)) == size


@pytest.mark.parametrize("text", ["", "x", "640x", "-32", "31", "0", "100x128", "64.0"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--size"):
        parse_size(text)
