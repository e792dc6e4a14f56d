from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.scoring.tensors import thaw_network, write_tensors
from rdagent_sota_patch.sessions.inert import Inert, read_inert
from rdagent_sota_patch.sessions.thaw import Unthawable

TYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def inert(value: object) -> Any:
    return read_inert(pickle.dumps(value, protocol=4))


class Holder(nn.Module):
    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("held", tensor)


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1, bias=False)),
        nn.GRU(3, 5, num_layers=2, bidirectional=True),
        nn.TransformerEncoderLayer(8, 2, dim_feedforward=6),
        nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.ELU()),
    ],
    ids=["linear", "gru", "transformer", "convolution"],
)
def test_a_network_s_state_dict(network: nn.Module) -> None:
    tensors = thaw_network(inert(network))
    state = network.state_dict()
    assert list(tensors) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensors[name], tensor.numpy(), strict=True)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_tensors_of_every_type(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)
    np.testing.assert_array_equal(thaw_network(inert(Holder(tensor)))["held"], tensor.numpy(), strict=True)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(24.0).reshape(2, 3, 4)[:, 1:, ::2],
        torch.tensor(7.0),
        torch.empty(0, 3),
        torch.arange(5.0)[2:4],
    ],
    ids=["turned", "sliced", "scalar", "empty", "part"],
)
def test_views_come_back_as_they_look(tensor: torch.Tensor) -> None:
    thawed = thaw_network(inert(Holder(tensor)))["held"]
    np.testing.assert_array_equal(thawed, tensor.numpy(), strict=True)
    assert thawed.flags.c_contiguous


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.complex64), torch.zeros(1).expand(5)],
    ids=["bfloat16", "complex", "expanded"],
)
def test_other_tensors_are_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(Unthawable):
        thaw_network(inert(Holder(tensor)))


@pytest.mark.parametrize("value", [None, {"weight": 1}, [1.0], nn.Module, nn.ReLU()], ids=str)
def test_what_is_no_network_is_refused(value: object) -> None:
    with pytest.raises(Unthawable):
        thaw_network(inert(value))


def parts(network: Inert) -> tuple[Inert, list[Any]]:
    """A made network's one tensor, and its arguments as a list."""
    tensor = network.attributes["_buffers"]["held"]
    return tensor, list(tensor.arguments)


@pytest.mark.parametrize(
    ("place", "value"),
    [(1, 5), (1, -1), (2, (2, 9)), (3, (3, -1)), (3, (9, 1)), (2, (1 << 40, 3)), (2, (2,))],
)
def test_a_tensor_beyond_its_storage_is_refused(place: int, value: object) -> None:
    network = inert(Holder(torch.arange(6.0).reshape(2, 3)))
    tensor, arguments = parts(network)
    arguments[place] = value
    tensor.arguments = tuple(arguments)
    with pytest.raises(Unthawable):
        thaw_network(network)


def damaged(storage: bytes) -> list[bytes]:
    return [
        b"",
        storage[:40],
        storage[:-1],
        storage + b"\0",
        storage.replace(b"FloatStorage", b"OtherStorage"),
        storage.replace(b"little_endian", b"little_endial"),
        storage.replace(b"\x88", b"\x89", 1),
        b"\x80\x02cos\nsystem\n." + storage,
    ]


@pytest.mark.parametrize("case", range(8))
def test_a_damaged_storage_is_refused(case: int) -> None:
    network = inert(Holder(torch.arange(6.0)))
    _, (storage, *_) = parts(network)
    storage.arguments = (damaged(storage.arguments[0])[case],)
    with pytest.raises(Unthawable):
        thaw_network(network)


def test_a_file_of_torchs_newer_format_is_refused() -> None:
    network = inert(Holder(torch.arange(6.0)))
    file = io.BytesIO()
    torch.save(torch.arange(6.0).untyped_storage(), file)
    _, (storage, *_) = parts(network)
    storage.arguments = (file.getvalue(),)
    with pytest.raises(Unthawable):
        thaw_network(network)


def test_safetensors_there_and_back(tmp_path: Path) -> None:
    tensors = thaw_network(inert(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))))
    write_tensors(tmp_path / "model.safetensors", tensors)
    back = load_file(tmp_path / "model.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name], tensor, strict=True)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SotaError) as caught:
        write_tensors(tmp_path / "missing" / "model.safetensors", {"a": np.zeros(1)})
    assert caught.value.slug == "cannot-write"
