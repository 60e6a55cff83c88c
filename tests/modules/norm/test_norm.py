"""Norms against their equations."""

from __future__ import annotations

import copy

import pytest
import torch

from detrkit.registry import MODULES
from tests.modules.naive import image, made, same


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def test_dynamic_tanh():
    module, x = made("DynamicTanh", in_channels=3), image(2, 3, 4, 5)
    for c in range(3):
        expected = module.weight[c] * torch.tanh(module.alpha * x[:, c]) + module.bias[c]
        same(module(x)[:, c], expected)


def test_rep_bn_adds_a_share_of_its_input():
    module, x = made("RepBN", in_channels=3), image(2, 3, 4, 5)
    norm = module.norm
    for c in range(3):
        unit = (x[:, c] - norm.running_mean[c]) / (norm.running_var[c] + norm.eps).sqrt()
        same(module(x)[:, c], norm.weight[c] * unit + norm.bias[c] + module.alpha * x[:, c])


def test_deployed_rep_bn_is_a_scale_and_a_shift():
    module, x = made("LinearNorm", in_channels=3), image(2, 3, 4, 5)
    expected = module(x)
    for _ in range(2):
        module.convert_to_deploy()
    same(module(x), expected)
    assert {name for name, _ in module.named_parameters()} == {"rep_bn.scale", "rep_bn.shift"}


def test_linear_norm_goes_from_one_norm_to_the_other():
    module, x = (
        MODULES.create("LinearNorm", in_channels=3, warm=2, step=4, r0=0.8),
        image(2, 3, 4, 5),
    )
    module = module.double().train()
    layer = module.layer_norm(x)
    bn = copy.deepcopy(module.rep_bn)(x)
    shares = [1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0]
    for share in shares:
        same(module(x), share * layer + (1 - share) * bn, 1e-6)
    assert module.calls == len(shares)


def test_the_course_is_saved():
    module = MODULES.create("LinearNorm", in_channels=3, step=4).train()
    module(torch.randn(2, 3, 4, 5))
    other = MODULES.create("LinearNorm", in_channels=3, step=4)
    other.load_state_dict(module.state_dict())
    assert other.calls == 1


def test_linear_norm_in_evaluation_is_rep_bn_alone():
    module, x = made("LinearNorm", in_channels=3, warm=5), image(2, 3, 4, 5)
    same(module(x), module.rep_bn(x), 0)
    assert module.calls == 0


def test_a_course_of_no_length_is_refused():
    with pytest.raises(ValueError, match="step must be positive"):
        MODULES.create("LinearNorm", in_channels=3, step=0)
