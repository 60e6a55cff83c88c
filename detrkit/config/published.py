"""What the authors published about their models, read from `published.yml`; nothing is computed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import yaml

FILE = Path(__file__).with_name("published.yml")

#: Hosts by the names that people know.
HOSTS = {
    "github.com": "GitHub",
    "drive.google.com": "Google Drive",
    "huggingface.co": "Hugging Face",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A file of trained weights.

    Attributes:
        url: as published: a file of a GitHub release, a Google Drive page, a Hugging Face model.
        ap: where it is not that of the model.
        what: how they differ from the first ones.
    """

    url: str
    ap: float | None = None
    what: str = ""

    @property
    def host(self) -> str:
        """ "GitHub", "Google Drive", "Hugging Face"."""
        name = urlparse(self.url).hostname or ""
        return HOSTS.get(name, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Numbers of one model. None: not published.

    Attributes:
        size: as the authors call it: "N", "M*", "Atto".
        readme: where the numbers stand.
        input: side of the square input in pixels, of `gflops` and `ap`.
        params: millions.
        gflops: a multiply-add is two operations.
        ap: COCO's average precision in percent, on `ap_on`.
        ap_on: the validation set of `ap`.
        latency: milliseconds on a T4 GPU, batch 1, TensorRT, fp16.
        fps: images per second of the same, where they give that.
        weights: those with `ap` first.
        license: of the repository, and what else to know.
    """

    size: str
    readme: str
    input: int = 640
    params: float | None = None
    gflops: float | None = None
    ap: float | None = None
    ap_on: str = "COCO val2017"
    latency: float | None = None
    fps: float | None = None
    weights: tuple[Weights, ...] = ()
    license: str = ""


@lru_cache(maxsize=1)
def published() -> dict[str, Published]:
    """Every model with published numbers, by the name of its config."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    content = yaml.load(FILE.read_text(encoding="utf-8"), loader)
    return {
        name: _published(values, content["sources"][values["family"]])
        for name, values in content["models"].items()
    }


def _published(values: dict[str, Any], source: dict[str, str]) -> Published:
    own = {key: value for key, value in values.items() if key not in ("family", "weights")}
    note = own.pop("license", None)
    return Published(
        **own,
        readme=source["readme"],
        license=f"{source['license']}; {note}" if note else source["license"],
        weights=tuple(Weights(**weights) for weights in values.get("weights", ())),
    )
