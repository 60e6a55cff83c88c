"""Packages beside torch: which are installed, which can be loaded, and how to get the others."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from detrkit.engine.doctor.report import Check, note, ok, problem, warning

#: Characters of Chinese, Japanese and Korean that class names are made of.
CJK_SAMPLE = "中文漢字かなカナ한국어"


@dataclass(frozen=True)
class Feature:
    """Something that a package brings.

    Attributes:
        name: what is shown.
        module: to be found, or imported if `compiled`: builds for another system fail only then.
        purpose: what it is for.
        install: what to give to pip.
        needed: whether training cannot do without.
        others: modules that must be there as well.
    """

    name: str
    module: str
    purpose: str
    install: str
    needed: bool = False
    compiled: bool = False
    others: tuple[str, ...] = ()


FEATURES = (
    Feature("scipy", "scipy", "matching", "scipy", needed=True),
    Feature("hotcoco", "hotcoco", "AP after each epoch", "hotcoco", needed=True, compiled=True),
    Feature("tensorboard", "tensorboard", "curves of a run", "tensorboard", needed=True),
    Feature(
        "pycocotools",
        "pycocotools.mask",
        "`eval --backend pycocotools`",
        "pycocotools",
        compiled=True,
    ),
    Feature("onnx", "onnx", "writing ONNX files", "onnx", others=("onnxsim",)),
    Feature("onnxruntime", "onnxruntime", "running .onnx files", "onnxruntime", compiled=True),
    Feature("calflops", "calflops", "FLOPs in `info`", "calflops", others=("transformers",)),
    Feature("tidecv", "tidecv", "kinds of error in `eval`", "tidecv"),
    Feature(
        "hf",
        "huggingface_hub",
        "weights of the Hugging Face hub, .safetensors",
        "detrkit[hf]",
        others=("safetensors", "transformers"),
    ),
    Feature("timm", "timm", "backbones of timm", "detrkit[timm]"),
    Feature(
        "openvino",
        "openvino",
        "`export --openvino`, running .xml files",
        "detrkit[openvino]",
        compiled=True,
    ),
    Feature("nncf", "nncf", "int8 for OpenVINO", "detrkit[openvino]"),
    Feature(
        "tensorrt",
        "tensorrt",
        "`export --trt`, running .engine files",
        "detrkit[trt]",
        compiled=True,
    ),
    Feature(
        "serve", "fastapi", "`serve`", "detrkit[serve]", others=("uvicorn", "python_multipart")
    ),
    Feature("video", "av", "videos and streams in `infer`", "detrkit[video]", compiled=True),
    Feature("track", "trackers", "`infer --track`", "detrkit[track]", others=("supervision",)),
    Feature("wandb", "wandb", "Weights & Biases", "detrkit[loggers]"),
    Feature("mlflow", "mlflow", "MLflow", "detrkit[loggers]", others=("sqlalchemy", "alembic")),
    Feature(
        "multiband",
        "tifffile",
        "TIFF of several bands",
        "detrkit[multiband]",
        others=("imagecodecs",),
    ),
    Feature("fiftyone", "fiftyone", "`eval --fiftyone`", "detrkit[fiftyone]"),
)


def version_of(feature: Feature) -> str:
    """The version of a feature's package.

    Raises:
        ImportError: it, or what it needs, is missing or cannot be loaded.
    """
    for name in (feature.module, *feature.others):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"no module {name!r}", name=name)
    if feature.compiled:
        module = importlib.import_module(feature.module)
        if hasattr(module, "__version__"):
            return str(module.__version__)
    name = feature.module.partition(".")[0]
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # another name than the module's
        owners = importlib.metadata.packages_distributions().get(name, ())
        return importlib.metadata.version(owners[0]) if owners else "of unknown version"


def check_feature(feature: Feature, version: Callable[[Feature], str]) -> Check:
    """Whether a package is there and can be loaded."""
    try:
        found = version(feature)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        reason = next(iter(str(error).splitlines()), "")
        what = f"not installed ({reason})" if missing else f"cannot be loaded: {reason}"
        hint = f"for {feature.purpose}: pip install '{feature.install}'"
        judge = problem if feature.needed else note if missing else warning
        return judge(feature.name, what, hint, values={"installed": False, "reason": reason})
    return ok(
        feature.name, f"{found} ({feature.purpose})", values={"installed": True, "version": found}
    )


_OPENCV = Feature("opencv", "cv2", "fast image reading", "opencv-python-headless", compiled=True)


def check_opencv(version: Callable[[Feature], str]) -> Check:
    """OpenCV does the pixels several times faster than Pillow; its usual wheel needs libGL."""
    slower = "Pillow does its work, 2 to 3 times slower"
    try:
        found = version(_OPENCV)
    except ModuleNotFoundError:
        return note(
            "opencv",
            f"not installed: {slower}",
            "pip install opencv-python-headless",
            values={"installed": False},
        )
    except ImportError as error:
        reason = next(iter(str(error).splitlines()), "")
        return warning(
            "opencv",
            f"installed, but cannot be loaded ({reason}): {slower}",
            "pip uninstall -y opencv-python; pip install --force-reinstall opencv-python-headless",
            values={"installed": True, "reason": reason},
        )
    if [int(n) for n in found.split(".")[:2] if n.isdigit()] < [4, 11]:
        return note(
            "opencv",
            f"{found} is too old: {slower}",
            "pip install --upgrade opencv-python-headless",
            values={"installed": True, "version": found},
        )
    return ok(
        "opencv", f"{found} (fast image reading)", values={"installed": True, "version": found}
    )


def check_font(missing: Callable[[str], str] | None = None) -> Check:
    """Whether class names in Chinese, Japanese and Korean can be drawn."""
    if missing is None:
        from detrkit.drawing.fonts import missing_characters

        missing = missing_characters
    lacking = missing(CJK_SAMPLE)
    if not lacking:
        return ok(
            "font", "Chinese, Japanese and Korean class names can be drawn", values={"missing": ""}
        )
    return note(
        "font",
        "none for Chinese, Japanese and Korean class names: pictures show class numbers instead",
        "pip install 'detrkit[fonts]', or DETRKIT_FONT=/path/to/font.ttf",
        values={"missing": lacking},
    )
