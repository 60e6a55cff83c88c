"""The authors' own configuration files, where a copy of their repositories is at hand.

`DETRKIT_AUTHORS_CONFIGS` names the `configs` folders of one or more of the four repositories,
separated as in `PATH`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detrkit.config.catalogue import root
from detrkit.config.schema import SLOTS, TYPES

#: A repository is known by a folder that only it has, the most telling first.
MARKS = {"deimv2": "DEIMv2", "deim_dfine": "DEIM", "rtdetrv2": "RT-DETRv2", "dfine": "D-FINE"}

#: Folders of files that are included, not complete on their own.
PARTS = {"include", "base", "dataset"}

#: What does not matter: where files lie, names of projects, keys that nothing reads.
FREE = (
    "output_dir",
    "use_wandb",
    "project_name",
    "exp_name",
    "data",
    "HGNetv2.local_model_dir",
    "PResNet.local_model_dir",
    *(
        f"{loader}.{key}"
        for loader in ("train_dataloader", "val_dataloader")
        for key in ("num_workers", "dataset.img_folder", "dataset.ann_file", "dataset.root")
    ),
)

#: What the constructors of all repositories fill in where a file says nothing.
DEFAULTS: dict[str, Any] = {
    "train_dataloader.collate_fn.ema_restart_decay": 0.9999,
    "train_dataloader.dataset.return_masks": False,
    "val_dataloader.dataset.return_masks": False,
    "ema.start": 0,
}

#: Defaults of one repository that are not those of the others: our files write them out.
REPOSITORY_DEFAULTS: dict[str, dict[str, Any]] = {
    "RT-DETRv2": {"HybridEncoder.version": "v2"},
    "DEIMv2": {"HybridEncoder.project_equal": False},
}

#: DEIMv2's repository has its own copy of DEIM's files, with these values instead.
COPIED: dict[str, Any] = {"find_unused_parameters": True, "print_freq": 500}


@dataclass(frozen=True)
class AuthorsFile:
    """One file of one repository.

    Attributes:
        repository: "D-FINE", "DEIM", "DEIMv2" or "RT-DETRv2".
        key: below the repository's `configs`: "dfine/dfine_hgnetv2_n_coco.yml".
    """

    repository: str
    folder: Path
    key: str

    @property
    def path(self) -> Path:
        return self.folder / self.key

    @property
    def is_part(self) -> bool:
        return not PARTS.isdisjoint(self.path.parent.relative_to(self.folder).parts)

    @property
    def ours(self) -> Path:
        """Our file of the same place; it may be missing."""
        return root() / self.key

    @property
    def is_copy(self) -> bool:
        """DEIM's files in DEIMv2's repository."""
        return self.repository == "DEIMv2" and not self.key.startswith("deimv2/")

    def __str__(self) -> str:
        return f"{self.repository}/{self.key}"


def authors_files() -> list[AuthorsFile]:
    """Every file about detection models; none where the variable is not set."""
    return list(_files())


def _files() -> Iterator[AuthorsFile]:
    for text in os.environ.get("DETRKIT_AUTHORS_CONFIGS", "").split(os.pathsep):
        folder = Path(text)
        marks = [mark for mark in MARKS if text and (folder / mark).is_dir()]
        if marks:
            for path in sorted(folder.rglob("*.yml")):
                key = path.relative_to(folder).as_posix()
                if "/" in key and not key.startswith(("base/", "dataset/")):
                    yield AuthorsFile(MARKS[marks[0]], folder, key)


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to values; lists stay whole."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, dict)
        found |= leaves(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


def in_use(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree without sections that no run setting and no component names."""
    used = {key for key in tree if key in TYPES or key in SLOTS or not isinstance(tree[key], dict)}
    waiting = list(used)
    while waiting:
        for value in leaves({"": tree[waiting.pop()]}).values():
            named = isinstance(value, str) and isinstance(tree.get(value), dict)
            if named and value not in used:
                used.add(value)
                waiting.append(value)
    return {key: value for key, value in tree.items() if key in used}


def differences(ours: dict[str, Any], file: AuthorsFile, theirs: dict[str, Any]) -> list[str]:
    """Dotted keys in which two resolved trees differ where it matters."""
    used = in_use(theirs)
    mine, wanted = DEFAULTS | leaves(in_use(ours)), DEFAULTS | leaves(used)
    if not file.is_copy:
        for key, value in REPOSITORY_DEFAULTS.get(file.repository, {}).items():
            if key.split(".")[0] in used:
                wanted.setdefault(key, value)
    else:
        assert COPIED.items() <= wanted.items()
        wanted |= {key: mine[key] for key in COPIED}
        mosaic = wanted["train_dataloader.dataset.transforms.ops"][0]
        if mosaic["type"] == "Mosaic" and file.key.startswith("deim_dfine/"):
            assert mosaic["use_cache"], "its mosaics come from a cache"
            mosaic["use_cache"] = False
    return [
        key
        for key in sorted({*mine, *wanted})
        if key not in FREE and mine.get(key, "absent") != wanted.get(key, "absent")
    ]
