"""A ranker outside PyTorch, as ONNX and in NumPy alone: the same scores to rounding, for any number of candidates."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import Fork

from rankers.base import Ranker
from rankers.checkpoint import load_ranker, save_pretrained
from registry import BLOCKS, PROJECTIONS, RANKERS, SIMILARITIES, ConfigError
from serving import __main__ as serving
from serving import exporting
from serving.exporting import Vectors, export_onnx
from serving.gelu import gelu
from serving.numpy_ranker import NumpyRanker

DIM = 12
PARTS: list[dict[str, Any]] = [
    {"name": ranker, "projection": {"name": "linear", "dim": 8}, **parts}
    for ranker in ("list_ranker", "point_ranker")
    for parts in (
        {},
        {"block": "transformer", "num_blocks": 2, "temperature": 0.2},
        {"block": {"name": "transformer", "num_heads": 2, "dropout": 0.5}, "similarity": "mlp"},
        {"block": "mlp", "similarity": "bilinear", "temperature": 0.5, "learn_temperature": True},
        {"block": {"name": "gated", "ratio": 3}, "similarity": "dot", "query": "learned"},
        {"num_blocks": 0, "projection": None},
        {"projection": {"name": "low_rank", "rank": 3}},
    )
]
ONNX = [2, 11]
"""Places in PARTS: what becomes ONNX here, a ListRanker with attention and a PointRanker without."""
SIZES = [(1, 1), (3, 2), (2, 10), (2, 100)]


def build(node: dict[str, Any]) -> Ranker[Any]:
    """A ranker all of whose weights are random, those that start as 0 or 1 too."""
    torch.manual_seed(1)
    ranker: Ranker[Any] = RANKERS.build(node, feature_dim=DIM)
    with torch.no_grad():
        for weight in ranker.parameters():
            weight += 0.3 * torch.randn(weight.shape)
    return ranker.train()


def inputs(num_queries: int, num_candidates: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(num_candidates)
    mask = torch.rand(num_queries, num_candidates, generator=draw) > 0.3
    mask[:, 0] = True
    query = torch.randn(num_queries, DIM, generator=draw)
    return query, torch.randn(num_queries, num_candidates, DIM, generator=draw), mask


def expected(ranker: Ranker[Any], query: torch.Tensor, candidates: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The scores in float64, as far as the ranker goes; its similarities compute in float32."""
    return Vectors(copy.deepcopy(ranker).double().eval())(query.double(), candidates.double(), mask).detach()


@pytest.mark.parametrize("node", PARTS, ids=str)
def test_numpy_alone_gives_the_scores_of_torch_for_any_number_of_candidates(
    node: dict[str, Any], tmp_path: Path
) -> None:
    ranker = build(node)
    runner = NumpyRanker(save_pretrained(ranker, tmp_path))
    for sizes in SIZES:
        query, candidates, mask = inputs(*sizes)
        found = runner.score(query.numpy(), candidates.numpy(), mask.numpy())
        reference = expected(ranker, query, candidates, mask)
        mask = mask.numpy()
        assert found.dtype == np.float32 and found.shape == sizes
        np.testing.assert_allclose(found[mask], reference.numpy()[mask], rtol=2e-5, atol=2e-5)
        everyone = expected(ranker, query, candidates, torch.ones(sizes, dtype=torch.bool))
        np.testing.assert_allclose(runner.score(query, candidates), everyone, rtol=2e-5, atol=2e-5)


def test_every_registered_part_is_tried() -> None:
    blocks, projections, similarities = (
        {(value["name"] if isinstance(value, dict) else value) for node in PARTS if (value := node.get(key))}
        for key in ("block", "projection", "similarity")
    )
    usual = {"cosine"}
    registered = (BLOCKS.names(), PROJECTIONS.names(), SIMILARITIES.names())
    assert tuple(map(set, registered)) == (blocks, projections, similarities | usual)


def test_gelu_is_that_of_torch_in_double_precision() -> None:
    x = torch.cat([torch.linspace(-40, 40, 100_001, dtype=torch.float64), torch.tensor([0.0, 1e-300])])
    reference = x * torch.special.ndtr(x)
    np.testing.assert_allclose(gelu(x.numpy()), reference, rtol=1e-13, atol=1e-13)


def test_the_runner_does_not_import_torch(tmp_path: Path) -> None:
    save_pretrained(build(PARTS[0]), tmp_path)
    code = (
        "import sys, numpy as np; from serving.numpy_ranker import NumpyRanker;"
        f"print(NumpyRanker({str(tmp_path)!r}).score(np.ones((1, {DIM})), np.ones((1, 3, {DIM}))).shape);"
        "assert not {'torch', 'lightning', 'scipy'} & sys.modules.keys(), 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(1, 3)\n"), done.stderr


def test_a_ranker_in_bfloat16_scores_in_numpy_as_its_weights_say(tmp_path: Path) -> None:
    ranker, (query, candidates, mask) = build(PARTS[0]).bfloat16(), inputs(2, 5)
    found = NumpyRanker(save_pretrained(ranker, tmp_path)).score(query, candidates, mask)
    reference = expected(ranker, query, candidates, mask).numpy()
    np.testing.assert_allclose(found[mask.numpy()], reference[mask.numpy()], rtol=2e-5, atol=2e-5)


def test_what_becomes_onnx_is_a_copy_in_float32_without_dropout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Vectors] = []
    monkeypatch.setattr(exporting, "_check_packages", lambda: None)
    monkeypatch.setattr(exporting, "_exported", lambda vectors, *_: seen.append(vectors) or b"")
    monkeypatch.setattr(exporting, "_difference", lambda *_: 0.0)
    ranker = build(PARTS[0]).bfloat16()
    export_onnx(ranker, tmp_path / "ranker.onnx")
    assert not seen[0].ranker.training and {weight.dtype for weight in seen[0].parameters()} == {torch.float32}
    assert ranker.training and {weight.dtype for weight in ranker.parameters()} == {torch.bfloat16}


def test_scores_that_are_not_finite_count_as_different(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        def __init__(self, *_: object, **__: object) -> None:
            self.calls = 0

        def run(self, _: list[str], given: dict[str, Any]) -> list[Any]:
            self.calls += 1
            return [np.full(given["mask"].shape, np.nan if self.calls == 2 else 1, np.float32)]

    class Runtime:
        InferenceSession = Session

    monkeypatch.setattr(exporting, "import_module", lambda _: Runtime)
    assert math.isnan(exporting._difference(Vectors(build(PARTS[0]).eval()), b"", DIM))


def test_a_part_that_numpy_cannot_run_is_named(tmp_path: Path) -> None:
    ranker = build(PARTS[0])
    ranker._given = {**ranker._given, "similarity": "dot"}
    folder = save_pretrained(ranker, tmp_path / "ranker")
    text = (folder / "config.json").read_text()
    for name in ("cosine", "dot"):
        text = text.replace(f'"{name}"', '"of_my_own"')
    lines = [line for line in text.splitlines() if '"sha256"' not in line]
    (folder / "config.json").write_text("\n".join(lines).replace(",\n}", "\n}"))
    with pytest.raises(ConfigError, match=r"ranker\.similarity: of_my_own cannot run without PyTorch"):
        NumpyRanker(folder)


def test_damaged_files_and_wrong_shapes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder of save_pretrained"):
        NumpyRanker(tmp_path)
    folder = save_pretrained(build(PARTS[0]), tmp_path / "ranker")
    runner = NumpyRanker(folder)
    with pytest.raises(ValueError, match=r"expected \[B, 12\] and \[B, K, 12\], got \[1, 5\] and \[1, 3, 5\]"):
        runner.score(np.ones((1, 5)), np.ones((1, 3, 5)))
    with pytest.raises(ValueError, match="expected a mask of shape"):
        runner.score(np.ones((1, DIM)), np.ones((1, 3, DIM)), np.ones((1, 4), bool))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(ConfigError, match="damaged: its files do not match their hashes"):
        NumpyRanker(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="this was not written by save_pretrained"):
        NumpyRanker(folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the rankers as <place>.onnx, written by a process in which nothing checks the shapes of tensors.

    The exporter counts with sizes that have no value yet, and the tests' checks of shapes would ask for it.
    """
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if tuple(map(int, torch.__version__.split(".")[:2])) < exporting._TORCH:
        pytest.skip("this version of torch cannot export them")
    folder = tmp_path_factory.mktemp("exported")
    for place in ONNX:
        save_pretrained(build(PARTS[place]), folder / str(place))
    code = f"""
import warnings
warnings.simplefilter("error")
from serving.__main__ import main
for place in {ONNX}:
    assert main(["export", f"{folder}/{{place}}", f"{folder}/{{place}}.onnx"]) == 0"""
    export = Fork(code)
    out, errors = export.communicate()
    assert export.returncode == 0 and not errors, errors
    assert out.count("of the largest") == len(ONNX)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("place", ONNX)
def test_onnx_gives_the_scores_of_torch_for_any_numbers_of_queries_and_candidates(place: int, exported: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(exported / f"{place}.onnx"))
    for sizes in SIZES:
        query, candidates, mask = inputs(*sizes)
        for exists in (mask, torch.ones_like(mask)):
            given = {"query": query.numpy(), "candidates": candidates.numpy(), "mask": exists.numpy()}
            (found,) = session.run(["scores"], given)
            reference, some = expected(build(PARTS[place]), query, candidates, exists).numpy(), exists.numpy()
            np.testing.assert_allclose(found[some], reference[some], rtol=5e-5, atol=5e-5)
    metadata = session.get_modelmeta().custom_metadata_map["ranker"]
    assert json.loads(metadata)["ranker"]["name"] == PARTS[place]["name"]


def test_scores_that_differ_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_check_packages", lambda: None)
    monkeypatch.setattr(exporting, "_exported", lambda *_: b"")
    monkeypatch.setattr(exporting, "_difference", lambda *_: math.nan)
    with pytest.raises(ConfigError, match="the exported scores differ by nan of the largest score"):
        exporting.export_onnx(build(PARTS[0]), tmp_path / "ranker.onnx")
    assert not list(tmp_path.iterdir())


def test_a_torch_that_cannot_export_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: name)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ConfigError, match=r"the exporter of torch 2.9 fixes the number of candidates.*\n.*torch>=2.10"):
        export_onnx(build(PARTS[0]), tmp_path / "ranker.onnx")


def test_only_list_and_point_rankers_become_onnx(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only list_ranker and point_ranker can be exported, not random"):
        export_onnx(RANKERS.build("random"), tmp_path / "random.onnx")
    ranker = RANKERS.build({"name": "list_ranker", "extra": ["num_tokens"]}, feature_dim=4)
    with pytest.raises(ValueError, match="a ranker that also reads num_tokens of each response cannot be exported"):
        export_onnx(ranker, tmp_path / "ranker.onnx")
    broken = build(PARTS[0])
    torch.nn.init.constant_(next(broken.parameters()), torch.nan)
    with pytest.raises(ValueError, match="a ranker whose weights are not finite cannot be exported: layers"):
        export_onnx(broken, tmp_path / "ranker.onnx")


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"onnxscript is not installed") as error:
        export_onnx(build(PARTS[0]), tmp_path / "ranker.onnx")
    assert ".[onnx]" in str(error.value) and not list(tmp_path.iterdir())


def test_the_command_writes_a_folder_for_numpy_and_tells_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_pretrained(build(PARTS[0]), tmp_path / "ranker")
    assert serving.main(["export", str(folder), str(tmp_path / "copy")]) == 0
    assert "is ready" in capsys.readouterr().out
    query, candidates, mask = inputs(2, 5)
    found, here = NumpyRanker(tmp_path / "copy").score(query, candidates, mask), Vectors(load_ranker(folder))
    np.testing.assert_allclose(found[mask.numpy()], here(query, candidates, mask).detach()[mask], rtol=2e-5, atol=2e-5)
    assert serving.main(["export", str(tmp_path / "nothing"), str(tmp_path / "x.onnx")]) == 1
    assert "no ranker here" in capsys.readouterr().err
    probe = save_pretrained(RANKERS.build("linear_probe", feature_dim=4), tmp_path / "probe")
    assert serving.main(["export", str(probe), str(tmp_path / "refused")]) == 1
    assert "ranker.name: linear_probe cannot run without PyTorch" in (told := capsys.readouterr().err)
    assert "ONNX" not in told and not (tmp_path / "refused").exists()
