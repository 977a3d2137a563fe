"""Inspects objects through the interpreter's own slots, bypassing any overridden attributes.

A subclass may define a property over `__cause__`, a metaclass may define one over `__qualname__`, and
`__class__` may be wrong. The functions here read the interpreter's own fields, so no application code runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import GetSetDescriptorType, MemberDescriptorType, TracebackType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

cause: Callable[[BaseException], BaseException | None] = vars(BaseException)["__cause__"].__get__
context: Callable[[BaseException], BaseException | None] = vars(BaseException)["__context__"].__get__
suppresses_context: Callable[[BaseException], bool] = vars(BaseException)["__suppress_context__"].__get__
traceback: Callable[[BaseException], TracebackType | None] = vars(BaseException)["__traceback__"].__get__
exception_args: Callable[[BaseException], tuple[Any, ...]] = vars(BaseException)["args"].__get__
exception_attributes: Callable[[BaseException], dict[str, Any]] = vars(BaseException)["__dict__"].__get__

_errno: Callable[[Any], object] = vars(OSError)["errno"].__get__

mro: Callable[[type], tuple[type, ...]] = vars(type)["__mro__"].__get__
class_attributes: Callable[[type], Mapping[str, Any]] = vars(type)["__dict__"].__get__
_qualname: Callable[[type], str] = vars(type)["__qualname__"].__get__
_module: Callable[[type], object] = vars(type)["__module__"].__get__


def is_exception(value: object) -> bool:
    return issubclass(type(value), BaseException)


def errno(error: BaseException) -> int | None:
    """Return the error number of an `OSError`, or `None` if there is none."""
    number = _errno(error) if issubclass(type(error), OSError) else None
    return number if type(number) is int else None


def is_exactly(value: object, classes: Iterable[type]) -> bool:
    """Return True if the class of a value is one of `classes`. `in` could call a metaclass's `__eq__`."""
    kind = type(value)
    for each in classes:  # noqa: SIM110 - any() takes twice as long, and this is called for each variable
        if kind is each:
            return True
    return False


def class_name(cls: type) -> str:
    return _qualname(cls) or "Error"


def class_module(cls: type) -> str | None:
    """Return the module of a class, or `None` for builtins."""
    module = _module(cls)
    return module if isinstance(module, str) and module and module != "builtins" else None


def qualified_name(cls: type) -> str:
    """Return the module and the qualified name of a class, joined by a dot."""
    module = class_module(cls)
    return f"{module}.{class_name(cls)}" if module else class_name(cls)


def instance_attributes(value: object) -> dict[str, Any] | None:
    """Return the `__dict__` of an object, or `None` if it has none."""
    for cls in mro(type(value)):
        found = class_attributes(cls).get("__dict__")
        if isinstance(found, (GetSetDescriptorType, MemberDescriptorType)):
            held = found.__get__(value)
            return held if type(held) is dict else None
    return None


def definer(cls: type, method: str) -> type:
    """Return the first class in the MRO of a class that defines a method; `object` if there is none."""
    return next((base for base in mro(cls) if method in class_attributes(base)), object)


def is_enum(cls: type) -> bool:
    return any(class_module(base) == "enum" and class_name(base) == "Enum" for base in mro(cls))


def has_attributes(cls: type) -> bool:
    """Return True if instances of a class can have attributes of their own."""
    return any("__dict__" in class_attributes(base) for base in mro(cls)) or bool(slots(cls))


def has_harmless_repr(cls: type) -> bool:
    """Return True if `repr` of an instance without attributes calls no `repr` of other objects.

    The `repr` of `object` calls none. Neither does the `repr` of a class that Python code defines, because
    such an instance holds nothing. The `repr` of a class written in C, such as an iterator, may call others.
    """
    base = definer(cls, "__repr__")
    return base is object or "__slots__" in class_attributes(base)


def slots(cls: type) -> list[tuple[str, MemberDescriptorType]]:
    """Return the name and the descriptor of each slot of a class and its bases."""
    return [
        (name, attribute)
        for base in mro(cls)
        for name, attribute in list(class_attributes(base).items())
        if type(attribute) is MemberDescriptorType
    ]
