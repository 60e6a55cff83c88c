"""`detrkit models`: table, filters, one model, JSON, Markdown; without torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from detrkit.config import catalogue
from tests.cli.conftest import Run


def test_the_table_has_every_config(run: Run) -> None:
    result = run("models")
    assert result.code == 0
    words = {line.split()[0] for line in result.out.splitlines() if line.strip()}
    assert {entry.alias for entry in catalogue()} <= words
    row = next(line for line in result.out.splitlines() if line.startswith("dfine_n_coco "))
    assert row.split() == ["dfine_n_coco", "N", "COCO", "4", "7", "42.8", "2.12", "ms", "GitHub"]
    atto = next(line for line in result.out.splitlines() if line.startswith("deimv2_atto_coco "))
    assert "Atto @320" in atto
    assert "T4" in result.out.splitlines()[-2] + result.out.splitlines()[-1]


def test_sizes_follow_each_other(run: Run) -> None:
    lines = run("models", "--family", "deimv2").out.splitlines()
    names = [line.split()[0] for line in lines if line.startswith("deimv2_")]
    first = ("atto", "femto", "pico", "n")
    assert names[:4] == [f"deimv2_{size}_coco" for size in first]


def test_filters(run: Run) -> None:
    assert "dfine_n_coco" not in run("models", "--family", "deimv2").out
    out = run("models", "ATTO").out
    assert "deimv2_atto_coco" in out
    assert "deimv2_atto_custom" in out
    assert "femto" not in out
    assert "quickstart" not in out


def test_one_model(run: Run) -> None:
    out = run("models", "deimv2_dinov3_l_coco").out
    for text in (
        "configs/deimv2/deimv2_dinov3_l_coco.yml",
        "32.2 M",
        "96.7 at 640 x 640",
        "56.0 on COCO val2017",
        "10.47 ms",
        "https://huggingface.co/Intellindust/DEIMv2_DINOv3_L_COCO",
        "DINOv3 License",
    ):
        assert text in out
    out = run("models", "dfine_l_obj365").out
    assert "Objects365 val" in out
    assert "quickstart.yml" in run("models", "quickstart").out


def test_json(run: Run) -> None:
    models = json.loads(run("models", "--json").out)["models"]
    assert len(models) == len(catalogue())
    by_name = {model["name"]: model for model in models}
    atto = by_name["deimv2_hgnetv2_atto_coco"]
    assert (atto["family"], atto["size"], atto["data"]) == ("deimv2", "Atto", "COCO")
    assert atto["published"]["params"] == 0.5
    assert atto["published"]["input"] == 320
    assert atto["published"]["weights"][0]["url"].startswith("https://huggingface.co/")
    assert by_name["quickstart"]["published"] is None


def test_markdown(run: Run) -> None:
    out = run("models", "--markdown", "--family", "rtdetrv2").out
    assert "`rtdetrv2_r34vd_120e_coco` | M\\* | COCO | 31 | 92 | 49.9 | 161 FPS | [GitHub](" in out
    assert "_custom" not in out
    tables = [line.count("|") for line in out.splitlines() if line.startswith("|")]
    assert set(tables) == {9}
    assert "blob/068dfde/rtdetrv2_pytorch/README.md" in out, "says where the numbers are from"
    licenses = run("models", "--markdown", "--family", "deimv2").out.splitlines()
    assert [line.count("`deimv2_") for line in licenses if "DINOv3 License" in line] == [2, 2]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing_like_it"], "no model's name contains `nothing_like_it`"),
        (["--family", "deimv"], "did you mean `deimv2`"),
        (["deimv2_s_coco"], "did you mean"),
        (["atto", "--json", "--markdown"], "--json and --markdown"),
    ],
)
def test_mistakes(run: Run, args: list[str], message: str) -> None:
    result = run("models", *args)
    assert result.code == 2
    assert message in result.err


def test_without_torch() -> None:
    code = (
        "import sys\nfrom detrkit.cli.app import main\nmain(['models'])\n"
        "assert 'torch' not in sys.modules, 'the list needs no torch'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
