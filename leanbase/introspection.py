"""Objects as the interpreter has them, past whatever their classes made of looking at them.

A subclass may put a property over `__cause__`, a metaclass one over `__qualname__`, and `__class__` may
lie. What is read here is read through the interpreter's own fields, so no code of the application runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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
    """Whether it is one by its type."""
    return issubclass(type(value), BaseException)


def errno(error: BaseException) -> int | None:
    """The error number of an `OSError`, if it has one."""
    number = _errno(error) if issubclass(type(error), OSError) else None
    return number if type(number) is int else None


def is_exactly(value: object, classes: Iterable[type]) -> bool:
    """Whether its class is one of these; `in` would ask the class's own class whether they are equal."""
    kind = type(value)
    return any(kind is each for each in classes)


def class_name(cls: type) -> str:
    """The qualified name of a class."""
    return _qualname(cls) or "Error"


def class_module(cls: type) -> str | None:
    """The module of a class; `None` for builtins."""
    module = _module(cls)
    return module if isinstance(module, str) and module and module != "builtins" else None


def qualified_name(cls: type) -> str:
    """Module and name of a class."""
    module = class_module(cls)
    return f"{module}.{class_name(cls)}" if module else class_name(cls)


def instance_attributes(value: object) -> dict[str, Any] | None:
    """What is in the `__dict__` of an object; `None` if it has none."""
    for cls in mro(type(value)):
        found = class_attributes(cls).get("__dict__")
        if isinstance(found, (GetSetDescriptorType, MemberDescriptorType)):
            held = found.__get__(value)
            return held if type(held) is dict else None
    return None


def definer(cls: type, method: str) -> type:
    """Which class in the MRO of a class defines a method that `object` has as well."""
    return next((base for base in mro(cls) if method in class_attributes(base)), object)


def is_enum(cls: type) -> bool:
    """Whether it is an enumeration."""
    return any(class_module(base) == "enum" and class_name(base) == "Enum" for base in mro(cls))


def has_attributes(cls: type) -> bool:
    """Whether instances have a place for attributes of their own."""
    return any("__dict__" in class_attributes(base) for base in mro(cls)) or any(slots(cls))


def has_harmless_repr(cls: type) -> bool:
    """Whether `repr` of an instance without attributes asks nothing else for its own: `object`'s does not.

    Nor does that of a class which Python code defines: such an instance holds nothing. One of C code,
    such as an iterator's, may.
    """
    base = definer(cls, "__repr__")
    return base is object or "__slots__" in class_attributes(base)


def slots(cls: type) -> Iterator[tuple[str, MemberDescriptorType]]:
    """The slots of a class and its bases, with what reads them."""
    for base in mro(cls):
        for name, attribute in list(class_attributes(base).items()):
            if type(attribute) is MemberDescriptorType:
                yield name, attribute
