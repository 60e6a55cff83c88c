"""Orders of pixels."""

from __future__ import annotations

import torch

from detrkit.ops.cross_scan import along, cross_merge, cross_scan, placed


def test_cross_scan() -> None:
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    rows, columns = [0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5]
    assert cross_scan(x)[0, :, 0].tolist() == [rows, columns, rows[::-1], columns[::-1]]


def test_cross_merge_adds_at_each_pixel() -> None:
    x = torch.randn(2, 3, 4, 5)
    weights = torch.tensor([1.0, 10, 100, 1000])[:, None, None]
    assert torch.allclose(cross_merge(cross_scan(x) * weights, (4, 5)), 1111 * x)


def test_placed_undoes_along() -> None:
    x = torch.randn(2, 3, 4, 5)
    orders = torch.stack([torch.randperm(20) for _ in range(3)])
    y = placed(along(x, orders), orders.argsort(-1))
    assert torch.equal(y, x.flatten(2)[:, None].expand(-1, 3, -1, -1))
