"""Tests marked `gpu` run where there is a GPU, and are never passed over where one is required."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.conftest import pytest_runtest_setup


def item(*markers: str) -> Any:
    """A test with these markers, as pytest hands it to the hook."""
    return SimpleNamespace(get_closest_marker=lambda name: name if name in markers else None)


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("STTN_REQUIRE_GPU", raising=False)


def test_without_a_gpu_it_is_skipped_with_the_reason():
    with pytest.raises(pytest.skip.Exception, match="needs a CUDA GPU"):
        pytest_runtest_setup(item("gpu"))


def test_where_a_gpu_is_required_it_fails(monkeypatch):
    monkeypatch.setenv("STTN_REQUIRE_GPU", "1")
    with pytest.raises(pytest.fail.Exception, match="needs a CUDA GPU"):
        pytest_runtest_setup(item("gpu"))


def test_with_a_gpu_it_runs(monkeypatch):
    monkeypatch.setenv("STTN_REQUIRE_GPU", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    pytest_runtest_setup(item("gpu"))


def test_other_tests_need_none(monkeypatch):
    monkeypatch.setenv("STTN_REQUIRE_GPU", "1")
    pytest_runtest_setup(item("slow"))
