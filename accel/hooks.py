"""Which hooks a plugin implements: read off the plugin itself, or by pluggy where it is irregular.

pluggy's registration looks at every attribute of every plugin through `inspect`, and importing both
takes longer than detection. A plain function, marked, named like a hook and with that hook's
arguments, needs none of it. Everything else (a misspelt hook, wrong arguments, a wrapper, a
decorated function) is pluggy's to judge and to explain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MethodType

from accel import hookspecs
from accel.errors import PluginContractError
from accel.value import Value

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any

MARK = f"{hookspecs.PROJECT}_impl"
_VARIADIC = 0x04 | 0x08  # CO_VARARGS and CO_VARKEYWORDS of the inspect module


class Implementation(Value, kw_only=False):
    """A plugin's function for a hook, and the hook's arguments that it takes."""

    hook: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]
    place: int = 0
    """-1 where it asked to be called before the others, 1 where after."""


def specified() -> Mapping[str, tuple[str, ...]]:
    """Every hook and its arguments."""
    mark = f"{hookspecs.PROJECT}_spec"
    return {
        name: value.__code__.co_varnames[: value.__code__.co_argcount]
        for name, value in vars(hookspecs).items()
        if isinstance(value, FunctionType) and hasattr(value, mark)
    }


_HOOKS = specified()


def implementations(plugin: Any, name: str) -> list[Implementation]:
    """The hooks that a plugin (a module or an object) implements.

    Raises PluginContractError, or what pluggy raises, where it breaks the contract.
    """
    found: list[Implementation] = []
    for hook, function in _marked(plugin):
        plain = _plain(hook, function)
        if plain is None:
            return by_pluggy(plugin, name)
        found.append(plain)
    return found


def _marked(plugin: Any) -> Iterator[tuple[str, Any]]:
    """Marked functions and methods by name, without running any property of the plugin's."""
    spaces = [vars(kind) for kind in reversed(type(plugin).__mro__)]
    spaces += [vars(plugin)] if hasattr(plugin, "__dict__") else []
    if isinstance(plugin, type):
        spaces = [vars(kind) for kind in reversed(plugin.__mro__)]
    names: dict[str, Any] = {}
    for space in spaces:
        names.update(space)
    for name, value in names.items():
        kept = (
            value.__func__ if isinstance(value, (staticmethod, classmethod, MethodType)) else value
        )
        if isinstance(kept, FunctionType) and hasattr(kept, MARK):
            yield name, getattr(plugin, name)


def _plain(name: str, function: Any) -> Implementation | None:
    """The implementation where all is as it should be; None where pluggy is to judge."""
    bound = isinstance(function, MethodType)
    inner = function.__func__ if bound else function
    options = getattr(inner, MARK)
    known = ("tryfirst", "trylast")
    if (
        name not in _HOOKS
        or not isinstance(options, dict)
        or any(value for key, value in options.items() if key not in known)
        or not isinstance(inner, FunctionType)
        or hasattr(inner, "__wrapped__")
    ):
        return None
    code = inner.__code__
    if code.co_flags & _VARIADIC or code.co_kwonlyargcount or inner.__defaults__:
        return None
    arguments = code.co_varnames[: code.co_argcount][bound:]
    if not set(arguments) <= set(_HOOKS[name]):
        return None
    place = bool(options.get("trylast")) - bool(options.get("tryfirst"))
    return Implementation(name, function, arguments, place)


def by_pluggy(plugin: Any, name: str) -> list[Implementation]:
    """The same, by pluggy's own registration. Raises what that raises; wrappers are refused."""
    import pluggy

    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name=name)
    manager.check_pending()
    found = []
    for caller in manager.get_hookcallers(plugin) or ():
        for impl in caller.get_hookimpls():
            if impl.hookwrapper or impl.wrapper:
                raise PluginContractError(
                    f"{caller.name} is a wrapper, which accel does not call",
                    found="hookwrapper=True or wrapper=True",
                    remedy="@accel.hookimpl, without either",
                )
            place = bool(impl.trylast) - bool(impl.tryfirst)
            found.append(Implementation(caller.name, impl.function, tuple(impl.argnames), place))
    return found
