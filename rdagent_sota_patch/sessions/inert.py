"""Read a pickle into stand-ins: whatever class or function it names, nothing of it is imported or called.

Every global becomes one generated class per (module, name) that only keeps what the file gave it.
The classes are sealed, so that no opcode can change one for the next reader, and bounded in number.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from rdagent_sota_patch.errors import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

LARGEST_SNAPSHOT = 1 << 30
"""Bytes. A hundred loops take some ten megabytes; a one-byte opcode can cost some two hundred bytes."""

LARGEST_OF_STRANGERS = 1 << 28
"""Bytes of a snapshot that is not signed with this machine's key: each is looked at before it is read."""

_LONGEST_NAME = 512
"""Characters in a module or class name; bounds what the cache of classes can hold."""

_UNPICKLER_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    SystemError,
    TypeError,
    ValueError,
)
"""What the C unpickler raises on malformed input; its documentation names some of them."""


class _Sealed(type):
    """Makes classes that cannot be changed, also not by a BUILD opcode."""

    def __setattr__(cls, name: str, value: object) -> NoReturn:
        raise TypeError(f"stand-in classes are sealed: {name} cannot be set")

    def __delattr__(cls, name: str) -> NoReturn:
        raise TypeError(f"stand-in classes are sealed: {name} cannot be deleted")


class Inert(metaclass=_Sealed):
    """Stands in for an object of a class that is never imported.

    Attributes:
        origin: Module and qualified name that the file asked for.
        arguments: What the class or function would have been called with.
        keywords: Keyword arguments of the call.
        state: What ``__setstate__`` or ``__dict__`` would have received.
        items: What would have been appended or added.
        entries: What would have been set by key.
    """

    __slots__ = ("arguments", "entries", "items", "keywords", "state")

    origin: ClassVar[tuple[str, str]] = ("", "")
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    state: Any
    items: list[Any]
    entries: dict[Any, Any]

    def __new__(cls, *arguments: object, **keywords: object) -> Inert:
        """Keep the call that the file asked for."""
        self = object.__new__(cls)
        self.arguments = arguments
        self.keywords = keywords
        self.state = None
        return self

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __getattr__(self, name: str) -> Any:
        # Most stand-ins never hold an item: made when first asked for.
        if name == "items":
            self.items = []
            return self.items
        if name == "entries":
            self.entries = {}
            return self.entries
        raise AttributeError(name)

    def append(self, item: object) -> None:
        """Keep an item of an APPEND opcode."""
        self.items.append(item)

    def extend(self, items: Iterable[object]) -> None:
        """Keep the items of an APPENDS opcode."""
        self.items.extend(items)

    def add(self, item: object) -> None:
        """Keep an item of an ADDITEMS opcode."""
        self.items.append(item)

    def __setitem__(self, key: Hashable, value: object) -> None:
        self.entries[key] = value

    def __repr__(self) -> str:
        return f"<stand-in for {self.title}>"

    @property
    def title(self) -> str:
        """Module and name for a message: a file's own spelling may hold control characters."""
        text = ":".join(self.origin)
        return text if text.isprintable() and len(text) <= 200 else ascii(text)[:200]

    @property
    def attributes(self) -> Mapping[str, Any]:
        """The attributes that the object would have had, from the usual forms of state."""
        if isinstance(self.state, dict):
            return self.state
        if type(self.state) is tuple and len(self.state) == 2:
            # (__dict__, slots) is how copyreg writes an object with __slots__.
            return {
                key: value for part in self.state if isinstance(part, dict) for key, value in part.items()
            }
        return {}


@lru_cache(maxsize=1024)
def _stand_in(module: str, name: str) -> type[Inert]:
    # A constant name: the file's own may hold characters that no class name can.
    namespace = {"__slots__": (), "origin": (module, name), "__module__": __name__}
    made: type[Inert] = _Sealed("StandIn", (Inert,), namespace)  # type: ignore[assignment]
    return made


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[Inert]:
        if len(module) + len(name) > _LONGEST_NAME:
            raise pickle.UnpicklingError("a class name of more than 512 characters")
        return _stand_in(module, name)

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError("a persistent object, which RD-Agent never writes")


def read_inert(payload: bytes | memoryview, *, trusted: bool = False) -> Any:
    """Read a pickle into plain values and stand-ins.

    Args:
        payload: The pickle, without a signature in front; a view must reach to the end of its bytes.
        trusted: Whether its writer is known, so that it need not be screened for resource bombs.
            Either way nothing of it is called.

    Raises:
        SnapshotError: ``snapshot-unreadable``, ``snapshot-refused`` or ``snapshot-too-large``.
    """
    if len(payload) > LARGEST_SNAPSHOT:
        raise too_large(len(payload))
    # The unpickler takes registered extension codes from a cache of real objects, unasked.
    if not trusted or copyreg._inverted_registry:  # type: ignore[attr-defined]
        from rdagent_sota_patch.sessions.opcodes import screen

        screen(payload)
    try:
        return _InertUnpickler(_without_copy(payload)).load()
    except _UNPICKLER_ERRORS as error:
        raise SnapshotError(
            "snapshot-unreadable",
            f"it is not a complete pickle ({type(error).__name__}: {str(error)[:200]}).",
            "A run that was killed while writing leaves such a file; another snapshot may be whole.",
        ) from None


def _without_copy(payload: bytes | memoryview) -> io.BytesIO:
    # BytesIO shares a bytes object and copies everything else, which for some megabytes shows.
    if isinstance(payload, memoryview) and type(payload.obj) is bytes:
        file = io.BytesIO(payload.obj)
        file.seek(len(payload.obj) - len(payload))
        return file
    return io.BytesIO(payload)


def too_large(size: int, most: int = LARGEST_SNAPSHOT) -> SnapshotError:
    """The error for a snapshot of ``size`` bytes, more than is read."""
    return SnapshotError(
        "snapshot-too-large",
        f"it has {size:,} bytes; more than {most:,} are not read.",
        "RD-Agent's snapshots have some megabytes; name a smaller one.",
    )
