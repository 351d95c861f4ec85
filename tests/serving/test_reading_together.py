"""Texts of several queries that are read together have the scores that they have alone, up to rounding."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from language_models.backbone import Backbone
from language_models.language_model import LanguageModel
from rankers.language_ranker.point_ranker import PointRanker
from rankers.prompted.prompted import Prompted
from rankers.text.cross_encoder import CrossEncoder
from rankers.text.reward_model import RewardModel
from ranking.batch import TextBatch
from serving.reranker import Asked, Reranker, TooLongError

ASKED = [
    Asked("sort", ["open the file", "sort a list", "write to a file"]),
    Asked("read the key", ["return the value of a key"]),
    Asked("open", ["open the file", "read a key", "sort", "write the list"]),
]


def reward_model(bert: Path, llama: Path) -> Reranker:
    return Reranker(RewardModel(Backbone(model=str(llama), dtype="float32"), template="plain", max_length=64))


def cross_encoder(bert: Path, llama: Path) -> Reranker:
    return Reranker(CrossEncoder(Backbone(model=str(bert), dtype="float32"), max_length=64))


def ranker_of_states(bert: Path, llama: Path) -> Reranker:
    model = LanguageModel(model=str(llama), template="plain", depths=[0.5], dtype="float32", device="cpu")
    return Reranker(PointRanker(feature_dim=32), model)


@pytest.mark.parametrize("build", [reward_model, cross_encoder, ranker_of_states])
def test_scores_are_those_of_each_query_alone_with_fewer_passes(
    build: Callable[[Path, Path], Reranker], tiny_bert: Path, tiny_llama: Path
) -> None:
    torch.manual_seed(0)
    reranker = build(tiny_bert, tiny_llama)
    expected = {each.query: {found.text: found.score for found in reranker.rank(*each)} for each in ASKED}
    assert not reranker.reads_together, "on a processor each query is read alone, equal to the bit"
    torch.testing.assert_close(
        [score.tolist() for score in reranker.score(ASKED)],
        [[expected[query][text] for text in documents] for query, documents in ASKED],
        rtol=0,
        atol=0,
    )
    model: Any = reranker.encoder.loaded if isinstance(reranker.encoder, LanguageModel) else reranker.ranker.backbone
    passes: list[int] = []
    hook = model.get_input_embeddings().register_forward_pre_hook(lambda *_: passes.append(1))
    alone = reranker.score(ASKED)
    num_alone = len(passes)
    reranker.reads_together = True
    together = reranker.score(ASKED)
    hook.remove()
    assert [len(each) for each in together] == [3, 1, 4]
    assert len(passes) - num_alone < num_alone
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_one_text_that_is_too_long_is_named(tiny_bert: Path, tiny_llama: Path) -> None:
    reranker = ranker_of_states(tiny_bert, tiny_llama)
    reranker.reads_together = True
    with pytest.raises(TooLongError, match="the model cannot read this: no response"):
        reranker.score([*ASKED, Asked("sort", ["sort " * 200])])


class Words(Prompted[TextBatch]):
    """Asks once for all queries; the score of a text is its length."""

    batch_type = TextBatch

    def __init__(self) -> None:
        super().__init__(generator={"name": "openai_compatible", "model": "stub", "url": "http://localhost:1/v1"})
        self.asked: list[Sequence[str]] = []

    def forward(self, batch: TextBatch) -> Float[Tensor, "B K"]:
        self.asked.append(batch.queries)
        return torch.tensor([[float(len(text)) for text in row] for row in batch.candidates])


def test_a_ranker_that_asks_in_words_is_asked_about_all_queries_at_once() -> None:
    ranker = Words()
    scores = Reranker(ranker).score(ASKED)
    assert ranker.asked == [["sort", "read the key", "open"]]
    assert [each.tolist() for each in scores] == [[len(text) for text in documents] for _, documents in ASKED]
