"""The values that travel through accel: all frozen, all plain, all JSON through `as_json`."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping

from accel.value import Value, field, field_names

TYPE_CHECKING = False  # typing itself is not imported for the sake of annotations
if TYPE_CHECKING:
    from typing import Any, Literal, TypeAlias

    Confidence: TypeAlias = Literal["measured", "documented", "reported", "inferred"]
    """How well a fact is known: read off a machine of ours, from the vendor's own documentation,
    from a third party, or by reasoning from a relative."""


class _Empty(Mapping[str, "Any"]):
    """No entries. Unlike a mapping proxy it can be copied and pickled, and is itself again then."""

    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "{}"

    def __reduce__(self) -> str:
        return "EMPTY"


EMPTY: Mapping[str, Any] = _Empty()


class Feature(str, enum.Enum):
    """What an implementation is an implementation of. Small and closed on purpose."""

    ATTENTION = "attention"
    DTYPE = "dtype"
    QUANT = "quant"
    COLLECTIVE = "collective"
    OP = "op"


class Stage(str, enum.Enum):
    """How far an implementation came: the stage it passed last, or the one that rejected it."""

    DECLARED = "declared"
    INSTALLED = "installed"
    PROBED = "probed"


class Level(str, enum.Enum):
    """How loud a Note is."""

    INFO = "info"
    DOWNGRADE = "downgrade"
    WARNING = "warning"
    ERROR = "error"


class Device(Value):
    """One accelerator (or the host CPU) as its plugin found it, without touching a driver context.

    `kind` is torch's device type and `index` the number torch will give it, so `kind:index` is a
    `torch.device`. `arch` is the vendor's own string and is never compared across vendors.
    `memory` is in bytes. `problem` says why torch cannot use the device as things stand (driver
    missing, torch built for something else), and `remedy` the one command that mends it.
    """

    vendor: str
    name: str
    kind: str
    arch: str
    index: int = 0
    family: str = ""
    memory: int | None = None
    memory_model: Literal["discrete", "unified"] = "discrete"
    driver: str | None = None
    toolkit: str | None = None
    pci_address: str | None = None
    priority: int = 0
    problem: str | None = None
    remedy: str | None = None
    attributes: Mapping[str, Any] = field(default=EMPTY, hash=False)
    owner: str = ""

    @property
    def torch_name(self) -> str:
        """What `torch.device()` takes: `kind:index`, or `cpu`."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @property
    def usable(self) -> bool:
        return self.problem is None


class Probe(Value):
    """A function `module:name` to be called in a child process as `f(device, **arguments)`.

    It computes on real numbers, forward and, where there is one, backward; returns a line that
    says what it measured; and raises to refuse. `device` is a `torch.device` string. `seconds` is
    its time limit.
    """

    function: str
    arguments: Mapping[str, Any] = field(default=EMPTY, hash=False)
    seconds: float = 60.0


class Impl(Value):
    """One way to have a feature on a device: what a plugin declares.

    `unavailable` is the reason it cannot be had, known from the facts alone. `requires` are
    PEP 508 requirements, all of which must be met; `because` says why they are needed.
    Of several accepted ones the highest `priority` is the best. `limits` is for what a holder of
    the choice must know, for example `{"refuses_dtypes": ["float64"]}` on a collective.
    """

    feature: Feature
    name: str
    priority: int = 0
    unavailable: str | None = None
    requires: tuple[str, ...] = ()
    because: str = ""
    probe: Probe | None = None
    note: str = ""
    source: str = ""
    confidence: Confidence = "documented"
    limits: Mapping[str, Any] = field(default=EMPTY, hash=False)
    owner: str = ""


class Decision(Value):
    """What became of an Impl on a device. `proven` only after its probe passed, here."""

    impl: Impl
    accepted: bool
    stage: Stage
    reason: str

    @property
    def proven(self) -> bool:
        return self.accepted and self.stage is Stage.PROBED

    @property
    def feature(self) -> Feature:
        return self.impl.feature

    @property
    def name(self) -> str:
        return self.impl.name


class Note(Value):
    """One line of a report: what happened, to what, and what to do about it."""

    level: Level
    subject: str
    message: str
    remedy: str = ""
    origin: str = ""


class PluginInfo(Value):
    """A plugin as found: entry point `name`, and the distribution that brought it."""

    name: str
    distribution: str
    version: str
    value: str
    status: Literal["loaded", "failed", "refused"] = "loaded"
    problem: str = ""


class Patch(Value):
    """One reversible change to a library.

    `target` is `package.module:attribute.path`. Exactly one of these says what to do:

    - `replace(original) -> replacement`: the attribute is replaced, and every other module's name
      that was bound to the original with it;
    - `seam(module) -> undo`: a door the library itself offers (a registry, say) is used; the
      returned function takes the change back. The target has no attribute part;
    - `environ`: environment variables to set, `None` to unset. The target is `os:environ`.

    The patch is skipped, and the report says so, when `distribution` (if named) is installed in a
    version outside `versions`, when the target is missing, when a callable target lacks one of
    `parameters`, or when `guard(original)` returns a reason.
    """

    target: str
    reason: str
    replace: Callable[[Any], Any] | None = field(default=None, compare=False)
    seam: Callable[[Any], Callable[[], None]] | None = field(default=None, compare=False)
    environ: Mapping[str, str | None] | None = field(default=None, hash=False)
    distribution: str = ""
    versions: str = ""
    parameters: tuple[str, ...] = ()
    guard: Callable[[Any], str | None] | None = field(default=None, compare=False)
    upstream: str = ""
    until: str = ""
    symptom: str = ""
    """What a user sees without the patch, with the text of the error, so that a search finds it."""
    optional: bool = False
    """The target may well be absent (a module that only some versions have): no line if it is."""
    owner: str = ""

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]

    @property
    def attribute(self) -> str:
        return self.target.partition(":")[2]

    @property
    def how(self) -> str:
        if self.seam is not None:
            return "seam"
        return "environ" if self.environ is not None else "replace"


def as_json(value: Any) -> Any:
    """Plain data: Values and dataclasses as dicts, enums as values, tuples as lists.

    Callables are left out.
    """
    if isinstance(value, enum.Enum):
        return value.value
    names = field_names(value) if isinstance(value, Value) else _dataclass_fields(value)
    if names is not None:
        items = ((name, getattr(value, name)) for name in names)
        return {name: as_json(item) for name, item in items if not callable(item)}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(item) for item in value]
    return value


def _dataclass_fields(value: Any) -> tuple[str, ...] | None:
    fields = getattr(type(value), "__dataclass_fields__", None)
    return None if fields is None else tuple(fields)
