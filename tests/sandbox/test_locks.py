"""Semaphores of pipes: as those of the standard library."""

from __future__ import annotations

import os
import threading

import pytest

from rdagent_sota_patch.sandbox.locks import PipeSemaphore

RECURSIVE, COUNTING = 0, 1


def semaphore(value: int, most: int, kind: int = COUNTING) -> PipeSemaphore:
    return PipeSemaphore(kind, value, most, "", True)


def test_it_can_be_acquired_as_often_as_it_has_values() -> None:
    """And not released more often than that."""
    two = semaphore(2, 2)
    assert two.acquire() and two.acquire()
    assert not two.acquire(block=False)
    assert not two.acquire(timeout=0.01)
    two.release()
    assert two.acquire(timeout=1)
    two.release()
    two.release()
    with pytest.raises(ValueError, match="too many times"):
        two.release()


def test_a_recursive_one_belongs_to_a_thread() -> None:
    """Who holds it may acquire it again, and nobody else may release it."""
    lock = semaphore(1, 1, RECURSIVE)
    with lock, lock:
        assert lock._count() == 2
        found: list[bool] = []
        other = threading.Thread(target=lambda: found.append(lock._is_mine()))
        other.start()
        other.join()
        assert found == [False]
    assert lock._get_value() == 1
    with pytest.raises(AssertionError):
        lock.release()


def test_forks_share_it() -> None:
    """What a child releases, the parent gets."""
    gate = semaphore(0, 1)
    child = os.fork()
    if child == 0:
        gate.release()
        os._exit(0)
    assert gate.acquire(timeout=10)
    os.waitpid(child, 0)


def test_one_that_nobody_waits_for() -> None:
    """A queue without a bound has a semaphore of two thousand millions."""
    endless = semaphore(2**31 - 1, 2**31 - 1)
    assert endless.acquire(block=False)
    endless.release()
    assert not endless._is_zero()
