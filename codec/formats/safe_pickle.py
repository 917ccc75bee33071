"""Reads the pickles that NumPy writes for a dictionary of numbers, text and arrays, and runs nothing.

A pickle is a program. This is a machine for the small part of its instruction set that plain data needs:
there is no import and no call. What pickle would look up and call stands on the stack as its mere name, and
the three names that NumPy's arrays use have a meaning here; any other name or instruction refuses the file.
Memory stays in proportion to the file's bytes. (Python documentation, `pickletools`; NumPy 1.x and 2.x spell
the module differently.)
"""

from __future__ import annotations

import io
import pickletools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_ARRAY, _SCALAR, _DTYPE, _NDARRAY = "array", "scalar", "dtype", "ndarray"
_NAMES = {
    "numpy.core.multiarray _reconstruct": _ARRAY,
    "numpy._core.multiarray _reconstruct": _ARRAY,
    "numpy.core.multiarray scalar": _SCALAR,
    "numpy._core.multiarray scalar": _SCALAR,
    "numpy dtype": _DTYPE,
    "numpy ndarray": _NDARRAY,
}
_DTYPES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "O", "O8"])
_MAX_STACK = 1000

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = frozenset(
    [
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
    ]
)


class PickleError(ValueError):
    """Not a pickle of plain data."""


@dataclass(frozen=True)
class _Name:
    """A name that pickle would import."""

    meaning: str


@dataclass
class _Dtype:
    code: str
    order: str = "<"

    @property
    def numpy(self) -> np.dtype:
        return np.dtype((self.order if self.order in "<>" else "") + self.code)


@dataclass
class _Array:
    """An array under construction: `value` once BUILD came."""

    value: Any = None
    built: bool = field(default=False)


class _Mark:
    pass


def load_array(data: bytes) -> Any:
    """The object in the pickle of a zero-dimensional object array (what `np.save(file, dictionary)` stores).

    Dictionaries, lists and tuples of numbers, text, bytes, and arrays of numbers. Raises PickleError.
    """
    try:
        outer = _run(data)
    except PickleError:
        raise
    except (ValueError, IndexError, TypeError, KeyError, AttributeError, OverflowError, MemoryError) as error:
        raise PickleError(f"its pickle is damaged ({type(error).__name__})") from None
    if not isinstance(outer, _Array) or not isinstance(outer.value, list) or len(outer.value) != 1:
        raise PickleError("its pickle does not hold one object")
    return outer.value[0]


def plain(value: Any) -> Any:
    """An array or NumPy scalar out of `load_array` as NumPy has it; everything else unchanged."""
    return value.value if isinstance(value, _Array) else value


def _run(data: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
        name = opcode.name
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "MARK":
            stack.append(_Mark)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(name[-1])
            stack.append(_pop(stack, n))
        elif name == "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        elif name == "APPEND":
            item = _pop(stack, 1)
            _expect(stack[-1], list).extend(item)
        elif name == "APPENDS":
            items = _pop_to_mark(stack)
            _expect(stack[-1], list).extend(items)
        elif name == "SETITEM":
            _set(stack, list(_pop(stack, 2)))
        elif name == "SETITEMS":
            _set(stack, _pop_to_mark(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[_expect(argument, int)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[_expect(argument, int)])
        elif name == "GLOBAL":
            stack.append(_name(_expect(argument, str)))
        elif name == "STACK_GLOBAL":
            module, attribute = _pop(stack, 2)
            stack.append(_name(f"{_expect(module, str)} {_expect(attribute, str)}"))
        elif name == "REDUCE":
            what, arguments = _pop(stack, 2)
            stack.append(_made(_expect(what, _Name).meaning, _expect(arguments, tuple)))
        elif name == "BUILD":
            (state,) = _pop(stack, 1)
            _build(stack[-1], _expect(state, tuple))
        elif name == "STOP":
            return stack.pop()
        else:
            raise PickleError(f"it uses the pickle instruction {name}, which plain data does not need")
        if len(stack) > _MAX_STACK:
            raise PickleError("its pickle is nested beyond reason")
    raise PickleError("its pickle is cut off")


def _pop(stack: list[Any], n: int) -> tuple[Any, ...]:
    if len(stack) < n or _Mark in stack[-n:]:
        raise PickleError("its pickle is damaged (stack)")
    items = tuple(stack[-n:])
    del stack[-n:]
    return items


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    items = []
    while (item := stack.pop()) is not _Mark:
        items.append(item)
    return items[::-1]


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise PickleError("its pickle is damaged (types)")
    return value


def _set(stack: list[Any], items: list[Any]) -> None:
    target = _expect(stack[-1], dict)
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_expect(key, str)] = value


def _name(text: str) -> _Name:
    if text not in _NAMES:
        shown = "".join(c for c in text if c.isprintable())[:60]
        raise PickleError(f"its pickle asks for {shown!r}, which plain data does not need: nothing was run")
    return _Name(_NAMES[text])


def _made(meaning: str, arguments: tuple[Any, ...]) -> Any:
    if meaning == _ARRAY:
        kind, shape, _ = arguments
        if kind != _Name(_NDARRAY) or shape != (0,):
            raise PickleError("its pickle holds an array of an unknown kind")
        return _Array()
    if meaning == _DTYPE:
        code = _expect(arguments[0], str)
        if code not in _DTYPES:
            raise PickleError("its pickle holds numbers of an unknown type")
        return _Dtype(code)
    if meaning == _SCALAR:
        dtype, data = _expect(arguments[0], _Dtype).numpy, _expect(arguments[1], bytes)
        if dtype.hasobject or len(data) != dtype.itemsize:
            raise PickleError("its pickle holds a damaged number")
        return np.frombuffer(data, dtype=dtype)[0]
    raise PickleError("its pickle is damaged (call)")


def _build(target: Any, state: tuple[Any, ...]) -> None:
    if isinstance(target, _Dtype):
        target.order = _expect(state[1], str)
        if target.order not in ("<", ">", "|", "="):
            raise PickleError("its pickle holds numbers of an unknown byte order")
        return
    array = _expect(target, _Array)
    _, shape, dtype, fortran, data = state
    dtype = _expect(dtype, _Dtype).numpy
    if array.built or not isinstance(shape, tuple) or len(shape) > 8:
        raise PickleError("its pickle holds a damaged array")
    sizes = [_expect(n, int) for n in shape]
    array.built = True
    if dtype.hasobject:
        array.value = _expect(data, list)
        return
    count = 1
    for n in sizes:
        count *= n
    if min(sizes, default=1) < 0 or len(_expect(data, bytes)) != count * dtype.itemsize:
        raise PickleError("its pickle holds an array whose size does not match its bytes")
    array.value = np.frombuffer(data, dtype=dtype).reshape(sizes, order="F" if fortran is True else "C")
