"""A small group store, and small runs on it; small candidate pools and language models."""

import gc
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

# Before torch is imported, and for the processes that tests start. Tensors here are tiny, so threads would only wait
# for one another; and `dtype: auto` is to be float32 on every machine. A GPU is seen where it is asked for: -m gpu.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")
if "PYTEST_XDIST_WORKER" not in os.environ and not re.search("-m ?gpu", " ".join(sys.argv)):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import pytest
import torch
from pools import listed_pool, pool
from postgres import database_url, postgres, postgres_server
from run_configs import leave_out_pictures, write_run_config
from tiny_bert import WORDS, tiny_bert
from tiny_llama import chat_llama, tiny_llama, tiny_qwen3

from ranking.stores.group_store_writer import GroupStoreWriter
from registry import KINDS, imports

__all__ = [
    "chat_llama",
    "database_url",
    "listed_pool",
    "pool",
    "postgres",
    "postgres_server",
    "tiny_bert",
    "tiny_llama",
    "tiny_qwen3",
]

NUM_QUERIES, NUM_CANDIDATES, DIM = 120, 12, 16

torch.set_num_threads(1)
if platform.machine() in ("aarch64", "arm64"):  # these know no ONEDNN_MAX_CPU_ISA=AVX2, and many have bfloat16
    torch.ops.mkldnn._is_mkldnn_bf16_supported = lambda: False


def pytest_configure() -> None:
    """A million objects are about to be imported, all of which stay: looking through them for garbage takes seconds."""
    gc.disable()


def pytest_collection_finish() -> None:
    """From now on there is garbage, but none among what has been imported."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores, since some tests only wait."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads, and limits to some cores, that a test leaves behind make every test after it many times as slow."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    yield
    left = torch.get_num_threads()
    torch.set_num_threads(1)
    assert left == 1, f"the test leaves {left} threads"
    if hasattr(os, "sched_getaffinity") and (limited := os.sched_getaffinity(0)) != cores:
        os.sched_setaffinity(0, cores)
        raise AssertionError(f"the test leaves its process with the cores {limited}")


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 queries, 72 of them to train, 24 to validate, 24 to test; 3 to 12 candidates each, some of them shared.

    What makes a candidate right is its likeness to the query in 4 of the 16 features; the others are louder noise. So
    the cosine of the raw features knows little, and a ranker has something to learn.
    """
    draw = torch.Generator().manual_seed(0)
    sizes = torch.randint(3, NUM_CANDIDATES + 1, (NUM_QUERIES,), generator=draw)
    sizes[:4] = torch.tensor([3, NUM_CANDIDATES, 3, NUM_CANDIDATES])
    offsets = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    queries, candidates = torch.randn(NUM_QUERIES, DIM, generator=draw), torch.randn(700, DIM, generator=draw)
    queries[:, 4:] *= 2
    candidate = torch.cat([torch.randperm(len(candidates), generator=draw)[:size] for size in sizes.tolist()])
    group = torch.arange(NUM_QUERIES).repeat_interleave(sizes)
    likeness = (queries[group, :4] * candidates[candidate, :4]).sum(dim=1)
    path = tmp_path_factory.mktemp("stores") / "store"
    with GroupStoreWriter(path, feature_dim=DIM, depths=[None], dtype="float32", settings={}) as writer:
        for first in (0, 400):
            part = candidates[first : first + 400]
            writer.add_candidates(part.unsqueeze(1), [f"candidate {first + row}" for row in range(len(part))])
        writer.add_groups(
            ids=[f"q{place}" for place in range(NUM_QUERIES)],
            texts=[f"query {place}" for place in range(NUM_QUERIES)],
            features=queries.unsqueeze(1),
            offsets=offsets,
            candidate=candidate,
            label=(likeness > 1).float(),
            slot_ids=[f"c{row}" for row in candidate.tolist()],
            split=[("train", "train", "val", "train", "test")[place % 5] for place in range(NUM_QUERIES)],
        )
        return writer.finish()


@pytest.fixture
def run_config(store: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the yaml of a short run on the store; what is given is merged over it, as overrides are."""
    return partial(write_run_config, store, tmp_path)


@pytest.fixture(autouse=True)
def _new_run_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no run hand its folder on to the next one of the same process."""
    monkeypatch.setenv("RANKERS_RUN_DIR", "")
    monkeypatch.delenv("RANKERS_RUN_DIR")


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run pages have their pictures only where a test is about them."""
    if "training.run" in sys.modules and request.node.get_closest_marker("pictures") is None:
        leave_out_pictures(monkeypatch)


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what a test registers and what it imports from outside the repository."""
    for registry in KINDS.values():
        registry.names()
        monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    monkeypatch.setattr(imports, "_imported", dict(imports._imported))
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(imports._imported)
    yield
    for name in set(imports._imported) - before:
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    """Texts of 1 to 40 words, in no order."""
    draw = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 41, (40,), generator=draw).tolist()
    return [" ".join(WORDS[place] for place in torch.randint(0, len(WORDS), (size,), generator=draw)) for size in sizes]
