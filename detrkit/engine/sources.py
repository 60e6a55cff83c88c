"""What a user points at: an image, a folder, a pattern, a video, a camera, pixels in memory."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detrkit.data.bands import WrongBands, as_pixels, bands_last, fitted
from detrkit.data.files import list_images
from detrkit.data.images import IMAGE_SUFFIXES, ImageBytes, read_image
from detrkit.data.modes import from_pillow
from detrkit.engine.media.places import Address, Camera
from detrkit.engine.media.video import VIDEO_SUFFIXES, is_video_file
from detrkit.errors import DataError, UsageError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


#: A file, folder or pattern; the content of an image file; a picture; uint8 RGB (H, W, 3) or gray
#: (H, W); a uint8 RGB tensor (3, H, W). For a model of C other channels: an array as in a `.npy`
#: file; a tensor (C, H, W). A video, an address (`rtsp://…`) or a camera: `Camera(0)`, "0".
Source: TypeAlias = str | Path | bytes | Image.Image | np.ndarray | Tensor | Camera | Address

#: What folders and patterns are expanded to.
Item: TypeAlias = Path | bytes | Image.Image | np.ndarray | Tensor | Camera | Address


def is_single(source: Any) -> bool:
    """Whether `source` is one image: no folder, pattern, video, stream or list."""
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        return not (path.is_dir() or _is_pattern(source) or _device(source) or is_moving(path))
    return isinstance(source, bytes | Image.Image | np.ndarray | Tensor)


def is_endless(source: Any) -> bool:
    """Whether `source` is a camera or an address, whose frames may never end."""
    return isinstance(source, Camera | Address) or (
        isinstance(source, str | Path) and _device(source) is not None
    )


def is_moving(item: object) -> bool:
    """Whether an expanded source has frames: a video, a camera, a stream."""
    return isinstance(item, Camera | Address) or (isinstance(item, Path) and is_video_file(item))


def expand(
    sources: Source | Iterable[Source],
    on_missing: Callable[[Path, DataError], None] | None = None,
) -> Iterator[Item]:
    """Files instead of folders and patterns, each file once, in the order given.

    A folder means all images and videos in it and below. A path that exists is taken as it is,
    also with `[` or `*` in its name; `0` is the first camera, what has `://` in it an address.

    Args:
        sources: one, or several.
        on_missing: gets what is not there, which is then passed over. None: that is an error.

    Raises:
        DataError: a path does not exist; a folder or pattern has no images.
        UsageError: a source is of no kind that is known.
    """
    listed = [sources] if isinstance(sources, Source) else sources
    seen: set[Path] = set()
    for source in listed:
        if not isinstance(source, str | Path):
            yield source
            continue
        if device := _device(source):
            yield device
            continue
        try:
            files = _existing(source)
        except DataError as error:
            if on_missing is None:
                raise
            on_missing(Path(source), error)
            continue
        for path in files:
            key = path.absolute()
            if key not in seen:
                seen.add(key)
                yield path


def load_image(source: Source, channels: int = 3) -> Tensor:
    """Pixels of one image, (C, H, W), as `read_image` gives them.

    For three channels, pixels in memory must be uint8 RGB: floats could be 0–1 or 0–255. For
    another number their values count as those of a `.npy` file (`detrkit.data.bands`).

    Args:
        source: no folder or pattern.
        channels: C, what the model takes.

    Raises:
        DataError: a file cannot be read.
        UsageError: pixels of another shape or type.
    """
    if isinstance(source, str | Path):
        return read_image(source, channels=channels)
    if isinstance(source, bytes):
        return read_image(ImageBytes(source), channels=channels)
    if isinstance(source, Image.Image):
        try:
            return torch.from_numpy(from_pillow(source, channels)).permute(2, 0, 1)
        except (ValueError, WrongBands) as error:
            raise UsageError(f"{error}") from error
    if channels != 3 and isinstance(source, np.ndarray | Tensor):
        return _bands(source, channels)
    if isinstance(source, np.ndarray):
        if source.dtype == np.uint8 and source.ndim == 2:
            source = np.repeat(source[..., None], 3, axis=2)
        if source.dtype == np.uint8 and source.ndim == 3 and source.shape[2] == 3:
            return torch.from_numpy(source.copy()).permute(2, 0, 1)  # may be read-only or a view
        raise UsageError(
            f"an array must be uint8 RGB (height, width, 3), got {source.dtype} {source.shape}",
            hint="OpenCV's BGR: image[..., ::-1]",
        )
    if isinstance(source, Tensor):
        if source.dtype == torch.uint8 and source.ndim == 3 and source.shape[0] == 3:
            return source
        raise UsageError(
            f"a tensor must be uint8 RGB (3, height, width), got {source.dtype} "
            f"{tuple(source.shape)}"
        )
    raise UsageError(f"cannot read an image from {type(source).__name__}")


def _bands(source: np.ndarray | Tensor, channels: int) -> Tensor:
    """An array in any layout, or a tensor (C, H, W)."""
    try:
        array = bands_last(source) if isinstance(source, np.ndarray) else _hwc(source)
        pixels = fitted("the array", as_pixels(array), channels)
    except (ValueError, WrongBands) as error:
        raise UsageError(f"{error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _hwc(image: Tensor) -> np.ndarray:
    if image.ndim != 3:
        raise ValueError(f"a tensor must be (C, height, width), got {tuple(image.shape)}")
    pixels: np.ndarray = image.detach().cpu().permute(1, 2, 0).numpy()
    return pixels


def _device(source: str | Path) -> Camera | Address | None:
    if isinstance(source, str) and _ADDRESS.match(source):
        return Address(source)
    if isinstance(source, str) and source.isdecimal() and not Path(source).exists():
        return Camera(int(source))
    return None


def _existing(source: str | Path) -> Sequence[Path]:
    try:
        return _files(source)
    except (OSError, ValueError) as error:  # a name that no system has, e.g. far too long
        raise DataError(f"{source}: {getattr(error, 'strerror', None) or error}") from error


def _files(source: str | Path) -> Sequence[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        found = list_images(path, also=is_video_file)
        if not found:
            raise DataError(
                f"no images in {path}, and no videos",
                hint=f"taken for images: {_listed(IMAGE_SUFFIXES)}; "
                f"for videos: {_listed(VIDEO_SUFFIXES)}",
            )
        return found
    if path.exists() or not _is_pattern(source):
        if not path.exists():
            raise DataError(f"{path}: file not found", hint=_nearby(path))
        return [path]
    matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    wanted = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    found = [m for m in matches if m.is_file() and m.suffix.lower() in wanted]
    if not found:
        raise DataError(f"no images match {source}")
    return found


def _listed(suffixes: Iterable[str]) -> str:
    return ", ".join(sorted(suffixes))


def _is_pattern(source: str | Path) -> bool:
    return glob.has_magic(str(source)) and not Path(source).expanduser().exists()


def _nearby(path: Path) -> str | None:
    """Where the path goes wrong."""
    for parent in path.parents:
        if parent.is_dir():
            return None if parent == path.parent else f"there is no {path.parent}"
    return None
