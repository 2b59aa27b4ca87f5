"""lib/data/formula.py: texts become functions of x and are never executed; what is not understood is named."""

import pytest
import torch

from experiments import exp_gan_curve as curve
from lib.data.formula import parse
from lib.faults import DataError, RunError


@pytest.mark.parametrize(
    ("text", "f"),
    [
        ("exponential", lambda x: 1.08**x),
        ("sine", lambda x: torch.sin(x / 8)),
        ("sqrt(x)", torch.sqrt),
        (" -x**2 + 3*sin(x/4) - 1e-1", lambda x: -(x**2) + 3 * torch.sin(x / 4) - 0.1),
        ("tanh(abs(log(x + 1) - +2)) * exp(-cos(2))", lambda x: ((x + 1).log() - 2).abs().tanh() * 1.516116),
        ("5", lambda x: torch.full_like(x, 5.0)),
    ],
)
def test_formulas(text, f):
    x, data = torch.linspace(0, 50, 101), curve.curve(text)
    torch.testing.assert_close(parse(text)(x), f(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(data.f(x), f(x), atol=1e-5, rtol=1e-5)
    assert all(s > 0 for s in data.std)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("x + foo(x)", "'foo(x)'"), ("2 * y", "'y'"), ("x.real", "'x.real'"), ("__import__('os')", "__import__"),
        ("sin(x, x)", "'sin(x, x)'"), ("x ^ 2", "'x ^ 2'"), ("2x", "'2x'"), ("x if x else 1", "'x if x else 1'"),
        ("True", "'True'"), ("sin", "'sin'"), ("x + 'a'", "\"'a'\""), ("", "''"), ("x\0", "null"),
        ("-" * 9000 + "x", "is not understood"),
    ],
)  # fmt: skip
def test_what_is_no_formula(text, part):
    with pytest.raises(DataError, match=r"--formula") as error:
        parse(text)
    assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("1 / x", "inf at x = 0"), ("log(x)", "-inf at x = 0"), ("sqrt(x - 1)", "nan at x = 0"),
        ("9**9**9**9", "inf at x = 0"),
    ],
)  # fmt: skip
def test_a_curve_is_finite(text, part):
    with pytest.raises(RunError, match=r"--formula") as error:
        curve.curve(text)
    assert part in str(error.value)
