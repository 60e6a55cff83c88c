"""Text files as people have them: UTF-8 with or without BOM, else GB18030."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import yaml

from detrkit.data.faults import FaultKind, FaultReport
from detrkit.errors import DataError


def read_text(path: str | Path) -> str:
    """The decoded content of a text file.

    Raises:
        DataError: the file is missing, unreadable, or in neither encoding.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding).removeprefix("\ufeff")
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path}: not a text file (neither UTF-8 nor GB18030)")


def read_json(path: str | Path) -> Any:
    """A parsed JSON file.

    Raises:
        DataError: it is missing or not JSON; line and column are named.
    """
    if not Path(path).is_file():
        FaultReport().add(FaultKind.MISSING_FILE, path)
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        place, reason = "", str(error)  # e.g. a number of 5,000 digits
        if isinstance(error, RecursionError):
            reason = "nested too deeply"
        elif isinstance(error, json.JSONDecodeError):
            place, reason = f"line {error.lineno}, column {error.colno}", error.msg
        FaultReport().add(FaultKind.BAD_JSON, path, place, reason)
        raise AssertionError from error  # the line above raises


def read_yaml(path: str | Path) -> Any:
    """A parsed YAML file, read safely.

    Raises:
        DataError: it is missing or not YAML.
    """
    if not Path(path).is_file():
        FaultReport().add(FaultKind.MISSING_FILE, path)
    try:
        return yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}" if mark else ""
        FaultReport().add(FaultKind.BAD_JSON, path, place, getattr(error, "problem", "") or "")
        raise AssertionError from error


def read_xml(path: str | Path) -> ElementTree.Element:
    """The root of an XML file, in the encoding that it declares or else in ours.

    Raises:
        DataError: it is missing or not XML.
    """
    try:
        data = Path(path).read_bytes()
        try:
            return ElementTree.fromstring(data)
        except (ValueError, LookupError):  # e.g. a multi-byte encoding, which expat lacks
            declared = re.match(rb"\s*<\?xml[^>]*?encoding=[\"']([\w.-]+)[\"'][^>]*>", data)
            if declared is None:
                raise
            return ElementTree.fromstring(data[declared.end() :].decode(declared[1].decode()))
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise DataError(f"{path}: {error}") from error
