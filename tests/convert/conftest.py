"""Fixtures of the tests of converters."""

from tests.data.conftest import make_coco

__all__ = ["make_coco"]
