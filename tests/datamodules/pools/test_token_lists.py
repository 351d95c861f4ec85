import pytest
import torch

from datamodules.pools import token_lists
from datamodules.pools.token_lists import TokenLists

TEXTS = {3: "abc", 5: "", 9: "de", 40: "fghij", 41: "k"}


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_texts_come_back_as_their_tokens(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_lists, "_TEXTS_AT_ONCE", at_once)
    lists = TokenLists.read(
        torch.tensor(list(TEXTS)), TEXTS.__getitem__, lambda texts: [list(map(ord, t)) for t in texts]
    )
    tokens, lengths = lists.padded(torch.tensor([40, 3, 5, 3]))
    assert lengths.tolist() == [5, 3, 0, 3]
    assert tokens.tolist() == [[*b"fghij"], [*b"abc", 0, 0], [0] * 5, [*b"abc", 0, 0]]
    assert lists.lengths(lists.index).tolist() == [len(text) for text in TEXTS.values()]


def test_no_text_is_no_token() -> None:
    lists = TokenLists.read(torch.empty(0, dtype=torch.int64), str, lambda texts: [])
    assert lists.padded(lists.index)[0].shape == (0, 0)
