"""Products in full precision, by either kernel."""

import pytest
import torch

from ranking.vectors.products import _parts, full_precision, products


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 50, 7), (20, 300, 64)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("backend", ["onednn", "any"])
def test_products_are_those_of_float64(
    shape: tuple[int, int, int], with_bias: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "any":
        monkeypatch.setattr("ranking.vectors.products._ONEDNN", None)
    draw = torch.Generator().manual_seed(0)
    left, right = torch.randn(shape[0], shape[2], generator=draw), torch.randn(shape[1], shape[2], generator=draw)
    bias = torch.randn(shape[1], generator=draw) if with_bias else None
    expected = left.double() @ right.double().T + (0 if bias is None else bias.double())
    torch.testing.assert_close(products(left, right, bias).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parts_of_lower_precision_add_up_to_what_was_split(dtype: torch.dtype) -> None:
    whole = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    whole /= whole.abs().amax(dim=1, keepdim=True)
    parts = _parts(whole, dtype)
    assert parts.dtype == dtype
    torch.testing.assert_close(parts.double().sum(dim=0), whole.double(), atol=1e-7, rtol=0)


def test_full_precision_puts_back_what_was_set() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(KeyError), full_precision(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
            raise KeyError
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
