"""Best of N gives the responses that sampling gives, in the order of the ranker's scores of their own states."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from features.generators.transformers import TransformersGenerator
from features.responses.generation import chat_id
from features.texts.tasks import Task
from rankers.language_ranker.list_ranker import ListRanker
from ranking.batch import FeatureBatch
from serving.chat.best_of import Answer, BestOf, ChatRefused, generator_of

CHATS = [[{"role": "user", "content": text}] for text in ("open the file", "sort a list", "the value of a key")]


def best_of(folder: Path, depths: list[float] | None = None, **options: Any) -> BestOf:
    usual = {"max_new_tokens": 12, "num_responses": 5, "device": "cpu", "dtype": "float32", **options}
    generator = TransformersGenerator(model=str(folder), depths=depths or [0.5], **usual)
    torch.manual_seed(0)
    return BestOf(ListRanker(feature_dim=32 * len(generator.depths)), generator)


def texts(answer: Answer) -> dict[int, str]:
    return {each.number: each.text for each in answer.candidates}


@pytest.mark.parametrize("depths", [[0.5], [0.5, 1.0]])
def test_scores_are_those_of_the_states_that_sampling_kept_to_the_bit(chat_llama: Path, depths: list[float]) -> None:
    made = best_of(chat_llama, depths)
    (answer,) = made.ask([made.question(CHATS[0], seed=3, temperature=1.3)])
    own = TransformersGenerator(
        model=str(chat_llama), depths=depths, max_new_tokens=12, seed=3, temperature=1.3, dtype="float32", device="cpu"
    )
    (found,) = own.generate([Task(chat_id(CHATS[0]), "", CHATS[0])], range(5))
    assert found.query_states is not None and found.response_states is not None
    batch = FeatureBatch.of_group(found.query_states.flatten(), found.response_states.flatten(1))
    with torch.inference_mode():
        scores = made.ranker(batch)[0]
    order = scores.argsort(descending=True, stable=True)
    assert [each.number for each in answer.candidates] == order.tolist()
    assert [each.score for each in answer.candidates] == scores[order].tolist()
    assert texts(answer) == {number: each.text for number, each in enumerate(found.responses)}
    assert answer.prompt_tokens == found.prompt_tokens
    assert answer.new_tokens == sum(len(each.tokens or ()) for each in found.responses)
    assert [each.finish for each in answer.candidates] == [found.responses[number].finish for number in order]


def test_questions_with_other_options_share_a_batch_and_get_what_they_get_alone(chat_llama: Path) -> None:
    made = best_of(chat_llama, batch_size=6)
    questions = [
        made.question(CHATS[0], seed=1),
        made.question(CHATS[1], seed=2, temperature=0.0, max_tokens=5, num_candidates=2),
        made.question(CHATS[2], seed=3, temperature=1.5, top_p=0.8, stop=["e"], num_candidates=7),
        made.question(CHATS[0], seed=4),
    ]
    together = made.ask(questions)
    for question, answer in zip(questions, together, strict=True):
        (alone,) = made.ask([question])
        assert texts(answer) == texts(alone) and answer.new_tokens == alone.new_tokens
        one, other = ({each.number: each.score for each in found.candidates} for found in (answer, alone))
        assert one == pytest.approx(other, abs=1e-4)
    assert len(together[1].candidates) == 2 and len(set(texts(together[1]).values())) == 1
    assert not any("e" in text for text in texts(together[2]).values())
    assert texts(together[0]) != texts(together[3])


def test_a_ranker_may_read_what_sampling_knows_but_nothing_else(chat_llama: Path) -> None:
    made, generator = best_of(chat_llama), best_of(chat_llama).generator
    known = ListRanker(feature_dim=32, extra=["log_probability", "num_tokens", "self_certainty"])
    (answer,) = BestOf(known, generator).ask([made.question(CHATS[0])])
    assert len({each.score for each in answer.candidates}) > 1
    with pytest.raises(ValueError, match="also reads agreement of each response, which sampling does not know"):
        BestOf(ListRanker(feature_dim=32, extra=["agreement"]), generator)


def test_a_chat_that_cannot_be_answered_is_refused(chat_llama: Path) -> None:
    made = best_of(chat_llama)
    with pytest.raises(ChatRefused, match=r"prompt too long: [0-9,]+ tokens, and the model reads 128"):
        made.ask([made.question([{"role": "user", "content": "sort a list " * 100}])])
    with pytest.raises(ChatRefused, match=r"template refuses this chat: .*no system here"):
        made.ask([made.question([{"role": "system", "content": "a"}, *CHATS[0]])])


def test_the_options_of_sampling_are_those_of_the_run(chat_llama: Path, tmp_path: Path) -> None:
    made = best_of(chat_llama)
    made.ranker.encoder = made.generator.identity()
    assert (bare := generator_of(made.ranker, tmp_path)) is not None
    assert (bare.model, bare.depths, bare.temperature, bare.num_responses) == (str(chat_llama), [0.5], 1.0, 10)
    sampled = {"name": "transformers", "model": str(chat_llama), "depths": [0.5, 1.0], "temperature": 0.7}
    sampled |= {"max_new_tokens": 33, "num_responses": 4, "stop": ["x"], "top_k": 9}
    config: dict[str, Any] = {
        "ranker": {"name": "list_ranker"},
        "datamodule": {"name": "grouped_features"},
        "features": {"name": "responses", "source": "arithmetic", "verifier": "final_number", "generator": sampled},
    }

    def generator(**features: Any) -> TransformersGenerator | None:
        config["features"] |= features
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        return generator_of(made.ranker, tmp_path)

    found = generator()
    assert found is not None and found.depths == [0.5]
    assert (found.temperature, found.max_new_tokens, found.num_responses) == (0.7, 33, 4)
    assert (found.stop, found.top_k) == (["x"], 9)
    other = {"name": "openai_compatible", "model": "another"}
    assert generator(generator=other, reader={"model": str(chat_llama), "depths": [0.5]}) is None
    made.ranker.encoder = None
    assert generator_of(made.ranker, tmp_path) is None
