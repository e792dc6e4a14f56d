"""A network's tensors: read from an inert pickle by exact rules, written and read as safetensors.

A pickled ``torch.nn.Module`` holds its parameters as calls of ``torch._utils`` on storages, and each storage as
the bytes of a small ``torch.save`` file in torch's older format. Both are read here without torch, wherever the
network was trained: on the CPU or on a GPU that is not here.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from rdagent_sota_patch.atomic import replace_atomically
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.sessions.inert import Inert
from rdagent_sota_patch.sessions.thaw import Unthawable, describe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_REBUILD = ("torch._utils", "_rebuild_tensor_v2")
_PARAMETERS = frozenset(
    {("torch._utils", "_rebuild_parameter"), ("torch._utils", "_rebuild_parameter_with_state")}
)
_STORAGE = ("torch.storage", "_load_from_bytes")
_MAGIC = 0x1950A86A20F9469CFC6C
_FORMAT = 1001
_TYPES = {
    "torch FloatStorage": "<f4",
    "torch DoubleStorage": "<f8",
    "torch HalfStorage": "<f2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "|i1",
    "torch ByteStorage": "|u1",
    "torch BoolStorage": "|b1",
}
_MEMO_AND_FRAMES = frozenset({"PROTO", "FRAME", "MARK", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_DEEPEST = 64


def thaw_network(module: object) -> dict[str, NDArray[np.generic]]:
    """The ``state_dict`` of a pickled network: parameters and persistent buffers by dotted name, in torch's order.

    Raises:
        Unthawable: It holds what no rule knows, such as a quantized tensor.
    """
    tensors: dict[str, NDArray[np.generic]] = {}
    _collect(module, "", tensors, 0)
    if not tensors:
        raise Unthawable("a network without parameters")
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Write tensors to ``path`` in safetensors format, atomically.

    Raises:
        BundleError: ``live-extra-missing``.
        SotaError: ``cannot-write``.
    """
    try:
        from safetensors.numpy import save
    except ImportError as error:
        raise _extra_missing() from error
    # Not ascontiguousarray, which would give a single number a dimension.
    content = save({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()})
    with replace_atomically(path, durable=False) as temporary:
        temporary.write_bytes(content)


def _extra_missing() -> BundleError:
    return BundleError(
        "live-extra-missing",
        "The network's weights are kept as safetensors, and the package safetensors is not installed here.",
        "Install what bundles need with: pip install 'rdagent-sota-patch[live]'",
    )


def _collect(module: object, prefix: str, tensors: dict[str, NDArray[np.generic]], depth: int) -> None:
    """Follow ``torch.nn.Module._save_to_state_dict``: own parameters, own buffers, then the children."""
    attributes = module.attributes if isinstance(module, Inert) else {}
    if not {"_parameters", "_buffers", "_modules"} <= attributes.keys() or depth > _DEEPEST:
        raise Unthawable(f"a part of the network in an unknown form: {prefix or describe(module)}")
    passing = _names(attributes.get("_non_persistent_buffers_set", set()))
    for group in ("_parameters", "_buffers"):
        for name, tensor in _mapping(attributes[group]).items():
            if tensor is not None and (group == "_parameters" or name not in passing):
                tensors[prefix + name] = _thaw_tensor(tensor)
    for name, child in _mapping(attributes["_modules"]).items():
        if child is not None:
            _collect(child, f"{prefix}{name}.", tensors, depth + 1)


def _mapping(value: object) -> dict[str, Any]:
    # Older torch kept these in an OrderedDict.
    if isinstance(value, Inert) and value.origin == ("collections", "OrderedDict"):
        value = value.entries
    if isinstance(value, dict) and all(type(name) is str for name in value):
        return value
    raise Unthawable(f"parts of a network in an unknown form: {describe(value)}")


def _names(value: object) -> set[str]:
    if isinstance(value, (set, frozenset)) and all(type(name) is str for name in value):
        return set(value)
    raise Unthawable(f"names of buffers in an unknown form: {describe(value)}")


def _thaw_tensor(value: object) -> NDArray[np.generic]:
    match value:
        case Inert(arguments=(Inert() as tensor, bool(), *_)) if value.origin in _PARAMETERS:
            return _thaw_tensor(tensor)
        case Inert(
            origin=origin,
            arguments=(
                Inert(arguments=(bytes() as file,)) as storage,
                int() as offset,
                tuple() as shape,
                tuple() as strides,
                bool(),
                _,
                *metadata,
            ),
        ) if origin == _REBUILD and storage.origin == _STORAGE and not any(metadata):
            return _view(_read_storage(file), offset, shape, strides)
    raise Unthawable(f"a tensor in an unknown form: {describe(value)}")


def _view(
    values: NDArray[np.generic], offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...]
) -> NDArray[np.generic]:
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(type(number) is not int or number < 0 for number in numbers):
        raise Unthawable("a tensor whose shape is not one")
    count = math.prod(shape)
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    # An expanded tensor has more elements than its storage; no network's parameter is one.
    if count and (last >= len(values) or count > len(values)):
        raise Unthawable("a tensor that reaches beyond its storage")
    if not count:
        return np.empty(shape, dtype=values.dtype)
    size = values.dtype.itemsize
    view = np.lib.stride_tricks.as_strided(
        values[offset:], shape, [stride * size for stride in strides], writeable=False
    )
    return np.array(view, order="C")


def _read_storage(file: bytes) -> NDArray[np.generic]:
    """The numbers in a file of ``torch.save(storage, _use_new_zipfile_serialization=False)``.

    Five small pickles (magic number, format, system, what was saved, keys of the storages), then the count of
    elements and the elements. Walked opcode by opcode: no unpickler is needed for so little.
    """
    stream = io.BytesIO(file)
    try:
        magic, version, system, saved, keys = (_literals(stream) for _ in range(5))
    except (ValueError, EOFError, UnicodeDecodeError, struct.error) as error:
        raise Unthawable(f"a storage that is not one: {error}") from None
    if [argument for _, argument in magic] != [_MAGIC] or [argument for _, argument in version] != [_FORMAT]:
        raise Unthawable("a storage in another format than torch's older one")
    if ("BINUNICODE", "little_endian") not in system or (
        system[system.index(("BINUNICODE", "little_endian")) + 1][0] != "NEWTRUE"
    ):
        raise Unthawable("a storage of a machine with another byte order")
    match [argument for name, argument in saved], [argument for _, argument in keys]:
        case ["storage", str() as kind, str() as key, str(), int() as count, None, None, None], [None, *rest]:
            pass
        case _:
            raise Unthawable("a storage whose description is in an unknown form")
    if saved[-1][0] != "BINPERSID" or [part for part in rest if part is not None] != [key]:
        raise Unthawable("a storage whose description is in an unknown form")
    if kind not in _TYPES:
        raise Unthawable(f"tensors of type {kind[:60]}")
    dtype = np.dtype(_TYPES[kind])
    start = stream.tell()
    if (
        count < 0
        or len(file) != start + 8 + count * dtype.itemsize
        or file[start : start + 8] != struct.pack("<q", count)
    ):
        raise Unthawable(f"a storage of {count} numbers in {len(file) - start} bytes")
    values: NDArray[np.generic] = np.frombuffer(file, dtype=dtype, offset=start + 8)
    return values


def _literals(stream: io.BytesIO) -> list[tuple[str, Any]]:
    """The next pickle's opcodes up to STOP, but for those that only remember or delimit."""
    return [
        (opcode.name, argument)
        for opcode, argument, _ in pickletools.genops(stream)
        if opcode.name not in _MEMO_AND_FRAMES and opcode.name != "STOP"
    ]
