"""Rankers of texts: their scores are those of transformers on each text alone, whatever is packed, padded or shared."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from language_models import TRANSFORMERS
from language_models.backbone import Backbone
from rankers.text.reward_model import RewardModel
from rankers.text.text_ranker import TextRanker
from ranking.batch import TextBatch
from registry import ConfigError

Build = Callable[..., TextRanker]
KINDS = [
    ("tiny_llama", "plain"),
    ("tiny_chat", "chat"),
    ("tiny_gpt2", "rankllama"),
    ("tiny_bert", "pair"),
    ("typed_bert", "pair"),
    ("tiny_bert", "plain"),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind[0])
def kind(request: pytest.FixtureRequest) -> tuple[Path, str]:
    """A model's folder and a template that fits it."""
    name, template = request.param
    return request.getfixturevalue(name), template


def tokens_of(folder: Path, template: str, query: str, candidate: str) -> dict[str, Tensor]:
    """The tokens of a pair, by the tokenizer alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if template == "pair":
        return tokenizer(query, candidate, return_tensors="pt")
    if tokenizer.eos_token is None:
        return tokenizer(f"{query} {candidate}", return_tensors="pt")
    text = {
        "plain": query + candidate + tokenizer.eos_token,
        "chat": f"user: {query}{tokenizer.eos_token}assistant: {candidate}{tokenizer.eos_token}",
        "rankllama": f"query: {query} document: {candidate}{tokenizer.eos_token}",
    }[template]
    # Query and candidate are read apart, as when the candidate is sampled after the query.
    place = text.rindex(" document: ") if template == "rankllama" else text.rindex(candidate)
    ids = [token for part in (text[:place], text[place:]) for token in tokenizer(part)["input_ids"]]
    return {"input_ids": torch.tensor([ids])}


@pytest.mark.parametrize("pooling", ["auto", "mean"])
@pytest.mark.parametrize("train", ["all", "head"])
def test_scores_are_those_of_each_text_alone(
    kind: tuple[Path, str], texts: TextBatch, build: Build, pooling: str, train: str
) -> None:
    folder, template = kind
    ranker = build(folder, template=template, pooling=pooling, train=train)
    plain = AutoModel.from_pretrained(folder).eval()
    if train == "all":
        weights = {name.removeprefix("backbone."): weight for name, weight in ranker.state_dict().items()}
        plain.load_state_dict(weights, strict=False)
    with torch.no_grad():
        scores = ranker(texts)
    assert isinstance(ranker.head, nn.Linear)
    for group, query in enumerate(texts.queries):
        for place, candidate in enumerate(texts.candidates[group]):
            if not texts.mask[group, place]:
                continue
            with torch.no_grad():
                states = plain(**tokens_of(folder, template, query, candidate)).last_hidden_state[0].double()
            first_or_last = states[0 if "bert" in folder.name else -1]
            pooled = states.mean(dim=0) if pooling == "mean" else first_or_last
            expected = pooled @ ranker.head.weight[0].double() + ranker.head.bias[0].double()
            assert scores[group, place].item() == pytest.approx(expected.item(), abs=2e-5)


def test_scores_do_not_depend_on_padding_batches_or_company(
    kind: tuple[Path, str], texts: TextBatch, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, template = kind
    ranker = build(folder, template=template)
    with torch.no_grad():
        scores = ranker(texts)[texts.mask]
        small = build(folder, template=template, batch_tokens=24)
        tokenizer = small._pairs._tokenizer
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        for padding_side in ("left", "right"):
            tokenizer.padding_side = padding_side
            for packs in (True, False) if small.reader.packs else (False,):
                with monkeypatch.context() as patch:
                    patch.setattr(small.reader, "packs", packs)
                    torch.testing.assert_close(small(texts)[texts.mask], scores, rtol=1e-4, atol=2e-5)
        alone = [ranker.score([query], [[text]]) for query, row in zip(texts.queries, texts.candidates, strict=True)
                 for text in row if text]  # fmt: skip
    torch.testing.assert_close(torch.cat(alone), scores, rtol=1e-4, atol=2e-5)


def test_equal_texts_have_equal_scores_to_the_bit(kind: tuple[Path, str], texts: TextBatch, build: Build) -> None:
    scores = build(kind[0], template=kind[1])(texts)
    assert texts.candidates[0][0] == texts.candidates[0][3]
    assert scores[0, 0] == scores[0, 3] and len(scores[texts.mask].unique()) == 13


@pytest.mark.parametrize("train", ["all", "lora"])
def test_gradients_are_the_same_whichever_way_texts_are_read(
    kind: tuple[Path, str], texts: TextBatch, build: Build, train: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, template = kind

    def gradients(way: str = "", **options: Any) -> dict[str, Tensor]:
        ranker = build(folder, template=template, train=train, **options)
        if way == "unpacked":
            monkeypatch.setattr(ranker.reader, "packs", False)
        scores, labels, mask = ranker.training_scores(texts)
        ranker.loss(scores.float(), labels, mask).backward()
        named = {name: weight.grad for name, weight in ranker.named_parameters() if weight.requires_grad}
        assert None not in named.values(), "weights that the loss does not depend on"
        return named  # type: ignore[return-value]

    ways = {"unpacked": {"batch_tokens": 100}, "recomputed": {"gradient_checkpointing": True, "batch_tokens": 50},
            "small": {"batch_tokens": 30}}  # fmt: skip
    expected = gradients()
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in expected.values())
    for way, options in ways.items():
        torch.testing.assert_close(
            gradients(way, **options), expected, rtol=1e-3, atol=2e-5, msg=lambda told, way=way: f"{way}: {told}"
        )


def test_a_prompt_is_read_once_for_all_responses_of_a_causal_model(
    tiny_llama: Path, texts: TextBatch, build: Build
) -> None:
    ranker = build(tiny_llama)
    seen: list[int] = []
    embed = ranker.backbone.get_input_embeddings()
    embed.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].numel()))
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    ranker(texts)
    prompts = sum(len(tokenizer(query)["input_ids"]) for query in texts.queries)
    distinct = [sorted(set(filter(None, row))) for row in texts.candidates]
    responses = sum(len(tokenizer(text)["input_ids"]) + 1 for row in distinct for text in row)
    assert seen[-1] == prompts + responses


def test_a_ready_made_cross_encoder_scores_without_training(
    bert_classifier: Path, texts: TextBatch, build: Build
) -> None:
    ranker = build(bert_classifier, "cross_encoder", template="pair", head="pretrained", train="nothing")
    assert not ranker.is_trained and not ranker.state_dict()
    plain, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(bert_classifier).eval(),
        AutoTokenizer.from_pretrained(bert_classifier),
    )
    scores = ranker(texts)
    for group, query in enumerate(texts.queries):
        for place, candidate in enumerate(texts.candidates[group]):
            if texts.mask[group, place]:
                expected = plain(**tokenizer(query, candidate, return_tensors="pt")).logits
                assert scores[group, place].item() == pytest.approx(expected.item(), abs=2e-5)


def test_a_ready_made_reward_model_reads_the_last_token_although_it_is_the_padding_token(
    llama_classifier: Path, texts: TextBatch, build: Build
) -> None:
    ranker = build(llama_classifier, template="plain", head="pretrained", train="nothing")
    plain = AutoModelForSequenceClassification.from_pretrained(llama_classifier).eval()
    tokenizer = AutoTokenizer.from_pretrained(llama_classifier)
    scores = ranker(texts)
    for group, query in enumerate(texts.queries):
        for place, candidate in enumerate(texts.candidates[group]):
            if texts.mask[group, place]:
                parts = [tokenizer(part)["input_ids"] for part in (query, candidate)]
                ids = torch.tensor([[*parts[0], *parts[1], tokenizer.eos_token_id]])
                states = plain.model(input_ids=ids).last_hidden_state[0, -1]
                expected = plain.score(states).item()
                assert scores[group, place].item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("train", ["all", "lora", "head"])
def test_the_head_of_a_ready_made_cross_encoder_trains_in_float32_and_its_texts_are_not_padded(
    bert_classifier: Path, texts: TextBatch, build: Build, train: str
) -> None:
    options = {"template": "pair", "head": "pretrained", "train": train, "backbone": {"dtype": "bfloat16"}}
    ranker = build(bert_classifier, "cross_encoder", **options)
    weights = {name: weight for name, weight in ranker.named_parameters() if name.startswith("head.")}
    shapes = sorted(tuple(weight.shape) for weight in weights.values())
    assert shapes == [(1,), (1, 32), (32,), (32, 32)], "pooler and classifier"
    assert all(weight.dtype == torch.float32 and weight.requires_grad for weight in weights.values())
    seen: list[int] = []
    ranker.backbone.get_input_embeddings().register_forward_hook(lambda *given: seen.append(given[1][0].numel()))
    scores, labels, mask = ranker.training_scores(texts)
    ranker.loss(scores, labels, mask).backward()
    assert scores.dtype == torch.float32
    # A bias that all scores share changes no difference of two.
    learning = [weight.grad for name, weight in weights.items() if not name.endswith("classifier.bias")]
    assert len(learning) == 3 and all(grad is not None and grad.abs().max() > 0 for grad in learning)
    tokenizer = AutoTokenizer.from_pretrained(bert_classifier)
    pairs = [(q, c) for q, row in zip(texts.queries, texts.candidates, strict=True) for c in dict.fromkeys(row) if c]
    lengths = [len(tokenizer(*pair)["input_ids"]) for pair in pairs]
    # Before version 5, BERT cannot be told which tokens belong together.
    assert seen[-1] == sum(lengths) if ranker.reader.packs else seen[-1] > sum(lengths)
    assert ranker.reader.packs or TRANSFORMERS < (5, 0)


def test_scores_keep_their_digits_with_a_backbone_in_bfloat16(llama_classifier: Path, build: Build) -> None:
    options = {"head": "pretrained", "train": "nothing", "backbone": {"dtype": "bfloat16"}}
    ranker = build(llama_classifier, **options)
    with torch.no_grad():
        scores = ranker.score(["sort"], [[f"value {number}" for number in range(40)]])
    assert scores.dtype == torch.float32 and not torch.equal(scores, scores.bfloat16().float())


def test_queries_that_are_equal_are_read_once(tiny_llama: Path, texts: TextBatch, build: Build) -> None:
    ranker = build(tiny_llama)
    seen: list[int] = []
    ranker.backbone.get_input_embeddings().register_forward_hook(lambda *given: seen.append(given[1][0].numel()))
    once = ranker.score(["sort"], [["a", "b", "c"]])
    again = ranker.score(["sort", "sort", "sort"], [["b", "a"], [], ["c", "b", "b"]])
    assert seen[-1] == seen[-2]
    torch.testing.assert_close(again, once[[1, 0, 2, 1, 1]])


def test_special_tokens_that_your_own_template_has_are_not_added_again(tiny_llama: Path, build: Build) -> None:
    written = build(tiny_llama, template="query: {query} document: {candidate}<|end|>")
    named = build(tiny_llama, template="rankllama")
    given = (["sort a list"], [["key", "value of a file", ""]])
    assert written._pairs.conversations(*given) == named._pairs.conversations(*given)


def test_weights_are_kept_although_they_were_asked_for_before_they_were_loaded(tiny_llama: Path) -> None:
    ranker = RewardModel(Backbone(model=str(tiny_llama), dtype="float32"), template="plain", max_length=64)
    assert not ranker.state_dict()
    ranker.configure_model()
    assert "head.weight" in ranker.state_dict()


def test_two_outputs_are_the_logits_of_two_classes(tiny_bert: Path, texts: TextBatch, build: Build) -> None:
    ranker = build(tiny_bert, "cross_encoder", template="pair", num_outputs=2, train="head", loss="bce")
    assert ranker.head is not None
    states = AutoModel.from_pretrained(tiny_bert).eval()(
        **AutoTokenizer.from_pretrained(tiny_bert)(texts.queries[0], texts.candidates[0][1], return_tensors="pt")
    )
    logits = ranker.head(states.last_hidden_state[0, 0])
    probability = ranker(texts)[0, 1].sigmoid()
    assert probability.item() == pytest.approx(logits.softmax(dim=0)[1].item(), abs=1e-5)


def test_long_texts_keep_their_end_and_a_line_says_so(
    tiny_bert: Path, build: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    ranker = build(tiny_bert, "cross_encoder", template="pair", max_length=20, max_query_length=4)
    (pair,) = ranker._pairs.conversations(["sort the list of a file to read"], [["value " * 30, "key"]])
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    assert tokenizer.convert_ids_to_tokens(pair.prompt) == ["[CLS]", "sort", "the", "list", "of", "[SEP]"]
    assert [len(pair.prompt) + len(response) for response in pair.responses] == [20, 8]
    assert [tokenizer.convert_ids_to_tokens(response[-1]) for response in pair.responses] == ["[SEP]", "[SEP]"]
    ranker.score(["sort"], [["value " * 40]])
    ranker.score(["sort"], [["value " * 40]])
    assert capsys.readouterr().err.count("a pair up to ranker.max_length=20") == 1


@pytest.mark.parametrize(("options", "message"), [
    ({"template": "{query} and so on"}, r"ranker.template: is no template of a query and a candidate"),
    ({"template": "pair"}, r"ranker.template: the tokenizer puts nothing between two texts"),
    ({"template": "chat"}, r"(?s)ranker.template: the model has no chat template.*plain for a causal one"),
    ({"max_length": 3, "max_query_length": 3}, r"ranker.max_length: 3 tokens leave no room for a candidate after 3 "),
    ({"template": "a b c d e f g h {query}{candidate}", "max_length": 32}, r"32 tokens leave no room for a candidate"),
    ({"template": "{query}a b c d e f g h{candidate}", "max_length": 16, "max_query_length": 8}, r"16 tokens leave no"),
    ({"max_length": 500}, r"ranker.max_length: 500 is more than the 128 tokens"),
    ({"train": "all", "lora": {"rank": 2}}, r"ranker.lora: has no effect with train: all"),
    ({"train": "nothing"}, r"ranker.train: nobody has trained a new head"),
    ({"head": "pretrained", "pooling": "mean"}, r"ranker.pooling: has no effect with head: pretrained"),
    ({"head": "pretrained", "num_outputs": 2}, r"ranker.num_outputs: has no effect with head: pretrained"),
    ({"head": "pretrained"}, r"ranker.backbone.model: .* has a head of 2 outputs"),
    ({"lora": {"targets": ["q_porj"]}}, r"ranker.lora.targets: .*no linear layer 'q_porj'"),
])  # fmt: skip
def test_wrong_options_are_refused_with_their_key(
    tiny_llama: Path, build: Build, texts: TextBatch, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tiny_llama, **options)(texts)


def test_a_pretrained_head_that_is_missing_is_refused(
    tiny_llama: Path, llama_classifier: Path, tmp_path: Path, build: Build
) -> None:
    for file in llama_classifier.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes((tiny_llama / "model.safetensors").read_bytes())
    with pytest.raises(ConfigError, match=r"(?s)lacks weights of a trained head: score.weight.*ranker.head=new"):
        build(tmp_path, head="pretrained", train="nothing")


def test_dropout_of_a_frozen_backbone_stays_off_in_training(tiny_bert: Path, texts: TextBatch, build: Build) -> None:
    ranker = build(tiny_bert, template="pair", train="head")
    expected = ranker(texts)
    ranker.train()
    torch.testing.assert_close(ranker(texts), expected)


def test_a_batch_without_candidates_has_no_scores(tiny_llama: Path, texts: TextBatch, build: Build) -> None:
    nothing = {"mask": torch.zeros(0, 5, dtype=torch.bool), "labels": torch.zeros(0, 5)}
    places = {"group": torch.zeros(0, dtype=torch.int64), "slot": torch.zeros(0, 5, dtype=torch.int64)}
    empty = dataclasses.replace(texts, **nothing, **places, queries=[], candidates=[])
    assert build(tiny_llama)(empty).shape == (0, 5)
