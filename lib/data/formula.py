"""Functions of x from a text such as `10 * sin(x / 5)`."""

import ast
import operator
from collections.abc import Callable

import torch
from torch import Tensor

from lib.faults import DataError

FORMULAS = {"exponential": "1.08 ** x", "sine": "sin(x / 8)"}
FUNCTIONS = ("sin", "cos", "exp", "log", "sqrt", "abs", "tanh")
OPERATIONS: dict[object, Callable[..., Tensor]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.UAdd: operator.pos, ast.USub: operator.neg,
    **{name: getattr(torch, name) for name in FUNCTIONS},
}  # fmt: skip


def parse(formula: str) -> Callable[[Tensor], Tensor]:
    """The function of x that a text means, built from its syntax tree: the text is never executed. Raises DataError."""
    text = FORMULAS.get(formula, formula).strip()

    def build(node: ast.expr) -> Callable[[Tensor], Tensor]:
        operation, operands = None, list[ast.expr]()
        match node:
            case ast.Constant(value) if type(value) in (int, float):
                number = float(value)  # type: ignore[arg-type]
                return lambda x: torch.full_like(x, number)
            case ast.Name("x"):
                return lambda x: x
            case ast.Name("pi"):
                return lambda x: torch.full_like(x, torch.pi)
            case ast.BinOp(left, op, right):
                operation, operands = OPERATIONS.get(type(op)), [left, right]
            case ast.UnaryOp(op, operand):
                operation, operands = OPERATIONS.get(type(op)), [operand]
            case ast.Call(ast.Name(name), [argument], []):
                operation, operands = OPERATIONS.get(name), [argument]
        if operation is None:
            raise SyntaxError(f"{ast.unparse(node)!r} is not understood")
        parts, apply = [build(operand) for operand in operands], operation
        return lambda x: apply(*[part(x) for part in parts])

    try:
        return build(ast.parse(text, mode="eval").body)
    except SyntaxError as error:  # ours, or Python's, which says where
        part = error.msg if error.offset is None else f"{text[max(0, error.offset - 1) :]!r} is not understood"
        known = f"numbers, x, pi, + - * / **, {' '.join(FUNCTIONS)}, and the names {' and '.join(FORMULAS)}"
        raise DataError(f"--formula {formula!r}: {part}; known are {known}") from error
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise DataError(f"--formula {formula[:80]!r} is not understood: {error}") from error
