"""What an exported file says of itself, the same in every format.

How pictures enter it, what its classes are called, what it was made from. One JSON text: under the
key `detrkit` of an ONNX file's `metadata_props`, of OpenVINO's `rt_info` and of TorchScript's and
torch.export's extra files; beside a TensorRT engine, which has no place for it, in `NAME.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from detrkit.errors import WeightsError
from detrkit.structures import ClassMap, ImageSpec

#: The key of the text in files that keep several.
KEY = "detrkit"
#: Rises when an older reader could misread the text.
FORMAT = 1

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Outputs = Literal["detections", "raw"]


def _version() -> str:
    from detrkit import __version__

    return __version__


@dataclass(frozen=True)
class Metadata:
    """Of one exported file.

    Attributes:
        image_spec: how pictures become its input. Its `size` is the one to use where the file
            takes any.
        class_map: names and category ids of its labels.
        config: the resolved configuration of the model; None: not known.
        precision: of most of its arithmetic.
        outputs: "detections" (labels, boxes, scores) or "raw" (the decoder's heads).
        version: of the detrkit that wrote it.
    """

    image_spec: ImageSpec
    class_map: ClassMap
    config: Mapping[str, Any] | None = None
    precision: Precision = "fp32"
    outputs: Outputs = "detections"
    version: str = field(default_factory=_version)

    def to_json(self) -> str:
        """As one line."""
        content = {
            "format": FORMAT,
            "version": self.version,
            "image_spec": self.image_spec.to_dict(),
            "class_map": self.class_map.to_dict(),
            "config": self.config,
            "precision": self.precision,
            "outputs": self.outputs,
        }
        return json.dumps(content, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> Metadata:
        """Inverse of `to_json`.

        Args:
            text: the line.
            where: the file, for errors.

        Raises:
            WeightsError: the text is damaged, or a newer detrkit wrote it.
        """
        try:
            content = json.loads(text)
            if content["format"] > FORMAT:
                raise WeightsError(
                    f"{where} was written by a newer detrkit ({content.get('version')})",
                    hint="pip install --upgrade detrkit",
                )
            return cls(
                ImageSpec.from_dict(content["image_spec"]),
                ClassMap.from_dict(content["class_map"]),
                content.get("config"),
                content.get("precision", "fp32"),
                content.get("outputs", "detections"),
                str(content.get("version")),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(
                f"{where}: its description is damaged ({type(error).__name__}: {error})",
                hint="export it again from the checkpoint",
            ) from error
