"""What a forward does that no graph of one step can hold, and in which line: the words of refusals."""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, cast

from torch import fx, nn
from torch.autograd.function import FunctionCtx

__all__ = ["Fault", "fault_of", "in_own_gradient", "loop_in_frames", "loop_of", "user_frames"]

Frames = list[tuple[FrameType, int]]
IsOfTime = Callable[[nn.Module], bool]
"""Whether a module holds a neuron: a loop that calls it is one over time."""

WORDS = (
    (("control flow",), "branches on a tensor or its size"),
    (("numpy", "ndarray", "__array"), "hands a tensor to numpy"),
    (("iterated",), "goes through the elements of a tensor"),
    (("item assignment",), "writes into a tensor"),
    (("as an integer", "'len'", "real number", "a number, not"), "takes a tensor, or its size, for a plain number"),
)
FACTORIES = frozenset(
    ("zeros", "ones", "empty", "full", "eye", "rand", "randn", "randint", "randperm", "arange", "linspace", "normal")
)
JARGON = ("Proxy", "proxy", "symbolic", "trac")


class Fault(Exception):
    """Something that the tracer itself noticed; the text goes on from "its forward"."""


def fault_of(error: Exception, frames: Frames) -> str:
    """What the forward did, after "its forward", with file and line where they are known."""
    text = str(error) if isinstance(error, Fault) else _words(error, frames)
    return f"{text} ({_place(frames[-1][0].f_code, frames[-1][1])})" if frames else text


def _words(error: Exception, frames: Frames) -> str:
    text, line = str(error), _statements(*frames[-1]) if frames else []
    if any(isinstance(node, ast.Assert) for node in line):
        return "asserts something of a tensor"
    for signs, words in WORDS:
        if any(sign in text for sign in signs):
            return words
    made = [f"torch.{name}" for node in line if (name := _factory(node))]
    if made:
        return f"makes a tensor by {made[0]} of what it was given (x.new_zeros or torch.rand_like can be followed)"
    known = "" if any(word in text for word in JARGON) else f": {type(error).__name__}: {text}"
    return f"cannot be followed{known}"


def _factory(node: ast.AST) -> str:
    """The name of the function of torch that ``node`` calls to make a tensor."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr=name)) if name in FACTORIES:
            return name
        case _:
            return ""


def user_frames(error: Exception, frameworks: Sequence[str]) -> Frames:
    """Those of ``error`` that are neither PyTorch's, nor a framework's, nor ours, the last one the innermost."""
    found: Frames = []
    trace = error.__traceback__
    while trace is not None:
        home = str(trace.tb_frame.f_globals.get("__name__", "")).split(".")[0]
        is_theirs = home in ("torch", *frameworks) or (home in sys.stdlib_module_names and home != "__main__")
        if not is_theirs and home.split("_")[:2] != ["snn", "lnm"]:
            found.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return found


def in_own_gradient(frames: Frames) -> bool:
    """One of them runs the forward of a `torch.autograd.Function`."""
    called = [node.func for frame in frames for node in _statements(*frame) if isinstance(node, ast.Call)]
    has_context = any(isinstance(value, FunctionCtx) for frame, _ in frames for value in frame.f_locals.values())
    return has_context or any(isinstance(function, ast.Attribute) and function.attr == "apply" for function in called)


# ---- loops over time


def loop_in_frames(frames: Frames, is_of_time: IsOfTime) -> str:
    """Where the functions that were running loop over time; empty if they do not."""
    for frame, _ in frames:
        names = frame.f_locals
        tensors = {name for name, value in names.items() if isinstance(value, fx.Proxy) and _is_of_input(value.node)}
        if place := _loop(frame.f_code, names, tensors, is_of_time):
            return place
    return ""


def loop_of(modules: Sequence[nn.Module], is_of_time: IsOfTime, only_indexed: bool = False) -> str:
    """Where the forward of one of ``modules`` loops over time; empty if none does."""
    for module in modules:
        forward = inspect.unwrap(type(module).forward)
        code = getattr(forward, "__code__", None)
        if isinstance(code, CodeType) and code.co_argcount > 1 and type(module).__module__.split(".")[0] != "torch":
            own, x = code.co_varnames[:2]
            if place := _loop(code, {own: module}, {x}, is_of_time, only_indexed):
                return place
    return ""


def _loop(
    code: CodeType, names: Mapping[str, Any], tensors: set[str], is_of_time: IsOfTime, only_indexed: bool = False
) -> str:
    """A loop over what is derived from the input, or over a range that takes `x[t]` or calls what is of time."""
    function = _function(code)
    if function is None:
        return ""
    known, tensors = tensors, _derived(function, names, tensors)
    for line, target, header, body in _loops(function):
        inside = [node for part in body for node in ast.walk(part)]
        over = [*ast.walk(header)]
        if isinstance(header, (ast.Tuple, ast.List)) or any(_is_of_layers(node, names) for node in over):
            continue
        counts = any(isinstance(node, ast.Name) and node.id == "range" for node in over)
        indexed = counts and any(_takes(node, known, target) for node in inside)
        calls = any(_calls(node, names, is_of_time) for node in inside)
        is_of_input = _mentions(header, tensors) or ((counts or target is None) and calls)
        if indexed or (is_of_input and not only_indexed):
            return _place(code, line)
    return ""


def _loops(function: ast.AST) -> Iterator[tuple[int, ast.expr | None, ast.expr, Sequence[ast.AST]]]:
    """Line, variable (of a `while`, None), what is gone through, and what is done, of each loop."""
    for node in ast.walk(function):
        if isinstance(node, (ast.For, ast.AsyncFor)):
            yield node.lineno, node.target, node.iter, node.body
        elif isinstance(node, ast.While):
            yield node.lineno, None, node.test, node.body
        elif isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
            yield node.lineno, node.generators[0].target, node.generators[0].iter, [node.elt]


def _is_of_layers(node: ast.AST, names: Mapping[str, Any]) -> bool:
    """A module, or what one of its methods gives."""
    is_module = isinstance(node, ast.Attribute) and isinstance(_resolved(node, names), nn.Module)
    return is_module or _calls(node, names, lambda module: True)


def _takes(node: ast.AST, tensors: set[str], target: ast.expr | None) -> bool:
    """``node`` is `x[t]`, of a loop over t."""
    match node, target:
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Name(id=index)), ast.Name(id=variable):
            return name in tensors and index == variable
        case _:
            return False


def _derived(function: ast.AST, names: Mapping[str, Any], tensors: set[str]) -> set[str]:
    """``tensors``, and names not yet known that the function makes of them (not lists of them)."""
    found, before = set(tensors), -1
    while before != len(found):
        before = len(found)
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and not isinstance(node.value, (ast.List, ast.Tuple, ast.ListComp)):
                targets = [part for target in node.targets for part in ast.walk(target)]
                if _mentions(node.value, found):
                    found |= {part.id for part in targets if isinstance(part, ast.Name)} - names.keys()
    return found


def _mentions(expression: ast.AST, names: set[str]) -> bool:
    return any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(expression))


def _calls(node: ast.AST, names: Mapping[str, Any], is_of_time: IsOfTime) -> bool:
    """``node`` calls a module for which ``is_of_time``, or a method of one."""
    if not isinstance(node, ast.Call):
        return False
    called = _resolved(node.func, names)
    if not isinstance(called, nn.Module) and isinstance(node.func, ast.Attribute):
        called = _resolved(node.func.value, names)
    return isinstance(called, nn.Module) and is_of_time(called)


def _resolved(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The module that `self.a.b` names, without running anything; None if it names none."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _resolved(node.value, names)
        if isinstance(owner, nn.Module):
            return owner._modules.get(node.attr)  # pyright: ignore[reportPrivateUsage] - no property runs
    return None


def _is_of_input(node: fx.Node) -> bool:
    """It was computed from the first argument of the step."""
    todo, seen = [node], set[fx.Node]()
    first = next((other for other in node.graph.nodes if other.op == "placeholder"), None)
    while todo:
        node = todo.pop()
        if node is first:
            return True
        todo += [source for source in node.all_input_nodes if source not in seen]
        seen.update(todo)
    return False


# ---- source


def _place(code: CodeType, line: int) -> str:
    return f"{Path(code.co_filename).name}:{line}"


@functools.lru_cache(maxsize=16)
def _parsed(source: str) -> ast.Module | None:
    try:
        return ast.parse(source)
    except SyntaxError:  # a notebook's cell with commands in it, say
        return None


def _function(code: CodeType) -> ast.AST | None:
    """The innermost function that ``code`` is, or is in (a comprehension is code of its own)."""
    tree = _parsed("".join(linecache.getlines(code.co_filename)))
    line, found = code.co_firstlineno, None
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *[decorator.lineno for decorator in node.decorator_list]])
            if first <= line <= cast(int, node.end_lineno):
                found = node
    return found


def _statements(frame: FrameType, line: int) -> list[ast.AST]:
    """All that begins in, or spans, the line that ran."""
    function = _function(frame.f_code)
    nodes = ast.walk(function) if function is not None else ()
    simple = (ast.Assert, ast.Call)
    return [n for n in nodes if isinstance(n, simple) and n.lineno <= line <= cast(int, n.end_lineno)]
