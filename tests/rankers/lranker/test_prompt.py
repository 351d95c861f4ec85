"""A prompt has the template's words around the query's own tokens, and each part where it says."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from rankers.lranker.prompt import PLACEHOLDER, TEMPLATES, Prompt, check_template, special_tokens
from registry import ConfigError

QUERIES = ["open the file", "a", "sort a list by the key of each value"]
FREE = "Items {query}, seen <|embedding|> here"


@pytest.fixture(params=["tiny_bert", "tiny_llama"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return AutoTokenizer.from_pretrained(request.getfixturevalue(request.param))


def tokens_of(prompt: Prompt, tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = [tokenizer(prompt.space + query, add_special_tokens=False)["input_ids"] for query in QUERIES]
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in tokens], batch_first=True)
    return padded, torch.tensor([len(ids) for ids in tokens])


def pieces(text: str, query: str, tokenizer: Any) -> tuple[list[int], int, list[int]]:
    """Token ids of a prompt, the placeholder's place, and the places of the query's tokens: part by part, by hand."""
    start, end = special_tokens(tokenizer)
    before, after = text.split("{query}")
    space = before[len(before.rstrip()) :]
    ids, place, own = list(start), -1, []
    for number, part in enumerate([before.rstrip(), space + query, after]):
        for half, words in enumerate(part.split(PLACEHOLDER)):
            if half:
                place = len(ids)
                ids.append(0)
            new = tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
            own += range(len(ids), len(ids) + len(new)) if number == 1 else []
            ids += new
    return ids + end, place, own


@pytest.mark.parametrize("template", [*TEMPLATES, FREE])
def test_each_prompt_is_its_parts_one_after_the_other(tokenizer: Any, template: str) -> None:
    prompt = Prompt.of(template, tokenizer, placed=True)
    tokens, lengths = tokens_of(prompt, tokenizer)
    laid, places = prompt.lay(tokens, lengths), prompt.places(lengths)
    for row, query in enumerate(QUERIES):
        ids, place, own = pieces(TEMPLATES.get(template, template), query, tokenizer)
        assert laid.ids[row].tolist() == ids + [0] * (laid.ids.shape[1] - len(ids))
        assert laid.mask[row].tolist() == [True] * len(ids) + [False] * (laid.ids.shape[1] - len(ids))
        assert laid.query[row].nonzero().flatten().tolist() == own
        assert int(places[row]) == place and int(laid.ids[row, place]) == 0
        assert prompt.num_tokens == len(ids) - len(own)


def test_what_stands_beyond_the_queries_own_tokens_does_not_matter(tokenizer: Any) -> None:
    prompt = Prompt.of("passage_ranking", tokenizer, placed=True)
    tokens, lengths = tokens_of(prompt, tokenizer)
    garbage = tokens.masked_fill(torch.arange(tokens.shape[1]) >= lengths.unsqueeze(1), 7)
    assert all(
        torch.equal(*pair) for pair in zip(prompt.lay(tokens, lengths), prompt.lay(garbage, lengths), strict=True)
    )


def test_poolings_choose_the_tokens_they_name(tokenizer: Any) -> None:
    prompt = Prompt.of("passage_ranking", tokenizer, placed=True)
    laid = prompt.lay(*tokens_of(prompt, tokenizer))
    ends = laid.mask.sum(dim=1) - 1
    for row, end in enumerate(ends.tolist()):
        own = laid.query[row].nonzero().flatten().tolist()
        assert laid.pooled("last")[row].nonzero().flatten().tolist() == [end]
        assert laid.pooled("query_eos")[row].nonzero().flatten().tolist() == [*own, end]
        assert laid.pooled("mean")[row].nonzero().flatten().tolist() == list(range(end + 1))


def test_without_a_place_for_candidates_the_placeholder_is_dropped(tokenizer: Any) -> None:
    prompt = Prompt.of("passage_ranking", tokenizer, placed=False)
    bare = TEMPLATES["passage_ranking"].replace(PLACEHOLDER, "")
    assert prompt.placeholder is None
    ids, _, _ = pieces(bare, "open", tokenizer)
    own = torch.tensor([tokenizer(prompt.space + "open", add_special_tokens=False)["input_ids"]])
    assert prompt.lay(own, torch.tensor([own.shape[1]])).ids[0].tolist() == ids
    assert check_template("{query}", placed=False) == "{query}"


def test_templates_say_what_the_paper_says() -> None:
    texts = {name: " ".join(text.split()) for name, text in TEMPLATES.items()}
    assert texts["recommendation"] == (
        "Task: Recommendation Query: {query} <|embedding|> Based on the global context information (candidate items) "
        "and the query above, recommend the most relevant item."
    )
    assert texts["routing"] == (
        "Task: Routing Query: {query} <|embedding|> Based on the global context information (candidate LLMs/agents) "
        "and the query above, select the most suitable route or model."
    )
    assert texts["passage_ranking"] == (
        "Task: Passage Ranking Query: {query} <|embedding|> Based on the global context information (candidate "
        "passages) and the query above, identify the most relevant passage."
    )
    assert texts["product_search"] == (
        "Task: Product Searching Query: {query} <|embedding|> Based on the global context information (candidate "
        "products) and the query above, return the product that best matches the search intent."
    )
    assert texts["context_first"].index(PLACEHOLDER) < texts["context_first"].index("{query}")


def test_special_tokens_are_those_a_tokenizer_puts_around_a_text_or_its_end_of_sequence(
    tiny_bert: Path, tiny_llama: Path
) -> None:
    bert, llama = AutoTokenizer.from_pretrained(tiny_bert), AutoTokenizer.from_pretrained(tiny_llama)
    assert special_tokens(bert) == (bert.convert_tokens_to_ids(["[CLS]"]), bert.convert_tokens_to_ids(["[SEP]"]))
    assert special_tokens(llama) == ([], [llama.eos_token_id])
    llama.eos_token = None
    with pytest.raises(ConfigError, match="no token that ends a text"):
        special_tokens(llama)


@pytest.mark.parametrize(("template", "placed", "parts"), [
    ("pasage_ranking", True, ["ranker.template", "Did you mean: passage_ranking", "0 places for the query"]),
    ("{query} or {query} <|embedding|>", True, ["2 places for the query", "a text with {query} once"]),
    ("Query: {query}", True, ["0 places for what is known", "ranker.aggregator=null"]),
    ("<|embedding|> {query} <|embedding|>", False, ["2 places for what is known"]),
])  # fmt: skip
def test_a_template_that_lacks_a_part_is_refused(template: str, placed: bool, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check_template(template, placed=placed)
    for part in parts:
        assert part in str(error.value)
