"""Transformations of pure functions: gradients and compilation with donated state."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad

from lib import tree
from lib.cudagraph import Graphed

# Pairwise fusion scoring is quadratic in the leaves that share a scalar (the learning rate, the clip factor), and loop
# reordering tries every pair again: without both a training step compiles a sixth faster and runs as fast.
INDUCTOR: dict = {"max_fusion_buffer_group_pairwise_attempts": 4, "loop_ordering_after_fusion": False}


def value_and_grad(fn: Callable, has_aux: bool = False) -> Callable[..., tuple[Any, tree.Tree]]:
    """(value, gradients with respect to the first argument), in JAX's order.

    `fn(params, ...)` returns a scalar, or `(scalar, aux)` with `has_aux`; the result is then `((scalar, aux), grads)`.
    Inside `torch.compile` or another transformation this is `torch.func.grad`; plain eager calls go through
    `torch.autograd.grad`, which frees activations as it goes (torch.func.grad holds 1.7 times the memory, pytorch
    #134612). No leaf the caller holds is marked `requires_grad`.
    """

    def call(params: tree.Tree, *args: Any, **kwargs: Any) -> tuple[Any, tree.Tree]:
        def on_leaves(leaves: list[Tensor]) -> Any:
            return fn(tree.unflatten(params, leaves), *args, **kwargs)

        grad = _func_grad if _transformed() else _autograd_grad
        value, grads = grad(on_leaves, tree.leaves(params), has_aux)
        return value, tree.unflatten(params, grads)

    return call


_inside: ContextVar[bool] = ContextVar("an eager value_and_grad is under way", default=False)


def _transformed() -> bool:
    """Whether someone else differentiates, batches or traces this call: then autograd must not cut the graph here."""
    return func_transformed() or _inside.get()


def func_transformed() -> bool:
    """Whether torch.compile traces this call or torch.func transforms it: its tensors then have no storage."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def second_order() -> bool:
    """Whether a forward-mode derivative or a derivative of a derivative is under way, which fused kernels lack.

    False inside `torch.compile`, where it cannot be asked, and for a second `torch.autograd.grad` that is yet to come.
    """
    if torch.compiler.is_compiling():
        return False
    levels = [interpreter.key() for interpreter in get_interpreter_stack() or []]
    return forward_ad._current_level >= 0 or levels.count(TransformType.Grad) + _inside.get() > 1


def _func_grad(fn: Callable, leaves: list[Tensor], has_aux: bool) -> tuple[Any, list[Tensor]]:
    grads, value = torch.func.grad_and_value(fn, has_aux=has_aux)(leaves)
    return value, grads


def _autograd_grad(fn: Callable, leaves: list[Tensor], has_aux: bool) -> tuple[Any, list[Tensor]]:
    leaves = [x.detach().requires_grad_() for x in leaves]
    token = _inside.set(True)
    try:
        with torch.enable_grad():
            value = fn(leaves)
    finally:
        _inside.reset(token)
    loss = value[0] if has_aux else value
    grads = torch.autograd.grad(loss, leaves, materialize_grads=True, allow_unused=True)
    return tree.map(lambda x: x.detach() if isinstance(x, Tensor) else x, value), list(grads)


def jit(
    step: Callable, donate: bool = True, enabled: bool = True, backend: str = "inductor", graphed: bool = True
) -> Callable[..., tuple[tree.Tree, Any]]:
    """Compile `step(state, *args) -> (state, out)` as one graph, state update included.

    With `donate`, the new state is written into the old state's storage at the end of the graph (JAX's
    `donate_argnums`), so two copies never live at once: the state passed in is spent, use the one returned. A new
    leaf must not be another path's old leaf (no swapping). On a GPU a donated step is then one CUDA graph
    (lib/cudagraph.py), unless `graphed` is False. `enabled=False` returns the step as it is.
    """
    if not enabled:
        return step
    options = INDUCTOR if backend == "inductor" else None
    if not donate:
        return torch.compile(step, fullgraph=True, dynamic=False, backend=backend, options=options)

    compiled = torch.compile(donating(step), fullgraph=True, dynamic=False, backend=backend, options=options)
    compiled = Graphed(compiled) if graphed else compiled

    def call(state: tree.Tree, *args: Any) -> tuple[tree.Tree, Any]:
        return state, compiled(state, *args)

    return call


def donating(step: Callable) -> Callable[..., Any]:
    """The step as `jit` compiles it: writes the new state into the old one's storage and returns `out`."""

    def overwrite(state: tree.Tree, *args: Any) -> Any:
        new, out = step(state, *args)
        tree.map(lambda old, x: old.copy_(x), state, new)
        return out

    return overwrite
