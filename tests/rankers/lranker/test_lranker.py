"""LRanker's embeddings are those of plain forwards of whole prompts, one query and one context at a time."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pools import DIM
from test_prompt import pieces
from torch import Tensor, nn
from transformers import AutoModel, MistralConfig, MistralModel

from language_models.backbone import Backbone
from language_models.lora import Lora
from rankers.lranker.lranker import LRanker
from rankers.lranker.prompt import TEMPLATES
from rankers.lranker.scaling.scaling import scale
from ranking.pools.pool_batch import Contexts, PoolBatch
from ranking.vectors.partitions import Partitions
from registry import ConfigError

CENTROIDS = 4
QUERIES = ["open the file", "a", "sort a list by the key of each value and read it"]
BACKBONES = ["tiny_bert", "tiny_llama", "tiny_qwen3"]
# Of words that the tiny vocabularies have: others are spelled, and long.
QUERY_FIRST, CONTEXT_FIRST = "read a {query} <|embedding|> of the list", "value <|embedding|> key {query}"
KINDS = [
    *({"template": template, "pooling": pooling} for template in (QUERY_FIRST, CONTEXT_FIRST)
      for pooling in ("query_eos", "mean", "last")),
    {"template": QUERY_FIRST, "injection": "prefix"},
    {"template": "{query}", "injection": "prefix", "pooling": "mean"},
]  # fmt: skip
EACH = pytest.mark.parametrize("options", KINDS, ids=lambda options: "-".join(options.values()))
Make = Callable[..., LRanker]


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Make:
    """Make a ranker with a tiny backbone whose weights, all of them, are no longer those it starts with."""

    def make_ranker(name: str = "tiny_llama", dtype: Any = "float32", **options: Any) -> LRanker:
        folder = request.getfixturevalue(name)
        torch.manual_seed(0)
        aggregator = {"name": "kmeans", "num_centroids": CENTROIDS}
        usual = {"aggregator": aggregator, "max_length": 60, "template": QUERY_FIRST}
        ranker = LRanker(DIM, Backbone(model=str(folder), dtype=dtype), **{**usual, **options})
        ranker.configure_model()
        with torch.no_grad():
            for weight in ranker.parameters():
                if weight.requires_grad:
                    weight += 0.1 * torch.randn_like(weight)
        if ranker.context is not None:
            ranker.context.scale.fill_(0.5)
        return ranker.eval()

    return make_ranker


def make_contexts(width: int, seed: int = 1) -> Contexts:
    draw = torch.Generator().manual_seed(seed)
    mask = torch.arange(CENTROIDS) < torch.randint(1, CENTROIDS + 1, (len(QUERIES), width, 1), generator=draw)
    return Contexts(torch.randn(len(QUERIES), width, CENTROIDS, DIM, generator=draw) * mask.unsqueeze(3), mask)


def padded(tokens: list[list[int]]) -> tuple[Tensor, Tensor]:
    rows = [torch.tensor(ids) for ids in tokens]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(ids) for ids in tokens])


@torch.no_grad()
def by_hand(ranker: LRanker, query: str, centroids: Tensor, mask: Tensor, **options: Any) -> Tensor:
    """The unit embedding of one query in one context, from one forward without padding or cache."""
    template, injection = options.get("template", QUERY_FIRST), options.get("injection", "placeholder")
    text = TEMPLATES.get(template, template)
    text = text if injection == "placeholder" else text.replace("<|embedding|>", "")
    ids, place, own = pieces(text, query, ranker._described.tokenizer())
    inputs = ranker.backbone.get_input_embeddings()(torch.tensor(ids))
    attended = torch.ones(len(ids), dtype=torch.int64)
    vectors = ranker.context(Contexts(centroids.unsqueeze(0), mask.unsqueeze(0)))[0]  # type: ignore[misc]
    shift = 0
    if injection == "placeholder":
        inputs[place] = vectors[0].to(inputs.dtype)
    else:
        inputs, shift = torch.cat([vectors.to(inputs.dtype), inputs]), len(vectors)
        attended = torch.cat([mask.long(), attended])
    states = ranker.backbone(inputs_embeds=inputs.unsqueeze(0), attention_mask=attended.unsqueeze(0), use_cache=False)
    states = states.last_hidden_state[0, shift:].double()
    pooling = options.get("pooling", "query_eos")
    chosen = {"query_eos": [*own, len(ids) - 1], "mean": [*range(len(ids))], "last": [len(ids) - 1]}[pooling]
    pooled = states[chosen].sum(dim=0) / len(chosen)
    if ranker.head is not None:
        pooled = ranker.head.weight.double() @ pooled
    return pooled / pooled.norm()


@EACH
@pytest.mark.parametrize("name", BACKBONES)
def test_every_query_in_every_context_has_the_embedding_of_a_plain_forward(
    make: Make, name: str, options: dict[str, str]
) -> None:
    ranker, contexts = make(name, **options), make_contexts(5)
    embed = ranker.embedder(*padded(ranker.tokenize(QUERIES)))
    expected = torch.stack([
        torch.stack([by_hand(ranker, query, *context, **options) for context in zip(*several, strict=True)])
        for query, *several in zip(QUERIES, *contexts, strict=True)
    ])  # fmt: skip
    for _ in range(2):  # a second call finds what the first has left
        torch.testing.assert_close(embed(contexts).double(), expected, rtol=1e-5, atol=1e-5)
    fewer = Contexts(*(each[:, 3:] for each in contexts))
    torch.testing.assert_close(embed(fewer).double(), expected[:, 3:], rtol=1e-5, atol=1e-5)
    some = torch.tensor([2, 0])
    embed.keep(some)
    found = embed(Contexts(*(each[some] for each in contexts)))
    torch.testing.assert_close(found.double(), expected[some], rtol=1e-5, atol=1e-5)
    spread = (expected - expected.mean(dim=1, keepdim=True)).norm(dim=2)
    assert spread.mean() > 1e-3


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_qwen3"])
def test_a_causal_backbone_reads_what_stands_before_the_placeholder_once(make: Make, name: str) -> None:
    ranker, sizes = make(name), []
    tokens, lengths = padded(ranker.tokenize(QUERIES))
    ranker.embedder(tokens, lengths)
    ranker.backbone.register_forward_pre_hook(
        lambda module, args, inputs: sizes.append(tuple(inputs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    embed = ranker.embedder(tokens, lengths)
    prompt = ranker._tokens.prompt
    suffix = len(prompt.after) - prompt.placeholder  # type: ignore[operator]
    assert sizes == [(3, prompt.num_tokens - suffix + tokens.shape[1])]
    embed(make_contexts(7))
    assert sizes[1:] == [(3, 7 * suffix)]


def test_many_contexts_go_through_the_backbone_in_several_calls(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts = make_contexts(23)
    for options in ({}, {"template": CONTEXT_FIRST}):
        ranker = make(**options)
        tokens, lengths = padded(ranker.tokenize(QUERIES))
        expected = ranker.embedder(tokens, lengths)(contexts)
        monkeypatch.setattr("rankers.lranker.query_embedder._BATCH_TOKENS", 250)
        torch.testing.assert_close(ranker.embedder(tokens, lengths)(contexts), expected, rtol=1e-5, atol=1e-5)
        monkeypatch.undo()


@pytest.mark.parametrize("options", [{}, {"template": CONTEXT_FIRST}, {"injection": "prefix"}, {"aggregator": None}])
@pytest.mark.parametrize("name", ["tiny_bert", "tiny_llama"])
def test_a_batch_without_queries_has_no_embeddings(make: Make, name: str, options: dict[str, Any]) -> None:
    ranker, none = make(name, **options), torch.zeros(0, 3, dtype=torch.int64)
    lengths = torch.zeros(0, dtype=torch.int64)
    if ranker.aggregator is None:
        assert ranker._finish(ranker._reader.read(none, lengths)).shape == (0, DIM)
        return
    embed = ranker.embedder(none, lengths)
    assert embed(Contexts(*(each[:0] for each in make_contexts(5)))).shape == (0, 5, DIM)
    whole = Contexts(*(each[0, :1] for each in make_contexts(1)))
    steps = scale(embed, torch.randn(30, DIM), ranker.aggregator, whole, num_queries=0, width=2, depth=3, settled=1)
    assert steps.shape == (0, 4, DIM)


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_llama"])
def test_attention_written_out_gives_the_same_as_that_of_one_kernel(make: Make, name: str) -> None:
    ranker, contexts = make(name), make_contexts(5)
    tokens = padded(ranker.tokenize(QUERIES))
    expected = ranker.embedder(*tokens)(contexts)
    assert ranker.backbone.config._attn_implementation == "sdpa"
    ranker.backbone.set_attn_implementation("eager")
    torch.testing.assert_close(ranker.embedder(*tokens)(contexts), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_llama"])
def test_under_mixed_precision_embeddings_are_those_of_fp32_to_its_rounding(make: Make, name: str) -> None:
    ranker, contexts = make(name), make_contexts(5)
    tokens = padded(ranker.tokenize(QUERIES))
    expected = ranker.embedder(*tokens)(contexts)
    with torch.autocast("cpu", torch.bfloat16):
        found = ranker.embedder(*tokens)(contexts)
    assert found.dtype == torch.float32
    assert float((found * expected).sum(dim=-1).min()) > 0.995


@pytest.mark.parametrize(("name", "options", "expected"), [
    ("tiny_llama", {}, True),
    ("tiny_qwen3", {"dtype": "bfloat16"}, True),
    ("tiny_llama", {"pooling": "mean"}, True),
    ("tiny_llama", {"template": CONTEXT_FIRST}, False),
    ("tiny_llama", {"injection": "prefix"}, False),
    ("tiny_bert", {}, False),
])  # fmt: skip
def test_prefixes_are_shared_where_nothing_before_the_placeholder_depends_on_it(
    make: Make, name: str, options: dict[str, Any], expected: bool
) -> None:
    ranker = make(name, **options).train()
    assert ranker._shares_prefixes is expected
    assert ranker.backbone.training


def test_a_window_shorter_than_the_prompts_forbids_to_share_prefixes(
    make: Make, tiny_llama: Path, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = MistralConfig(
        vocab_size=400, intermediate_size=48, max_position_embeddings=128, sliding_window=40, **sizes
    )
    folder = tmp_path / "mistral"
    folder.mkdir()
    for file in tiny_llama.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    MistralModel(config).save_pretrained(folder)
    for longest, expected in ((40, True), (41, False)):
        ranker = LRanker(DIM, Backbone(model=str(folder)), template="{query} <|embedding|>", max_length=longest)
        ranker.configure_model()
        assert ranker._shares_prefixes is expected


def test_without_an_aggregator_queries_are_read_alone(make: Make) -> None:
    ranker = make(aggregator=None, scaling=None)
    tokens, lengths = padded(ranker.tokenize(QUERIES))
    batch = dataclasses.replace(PoolBatch.of_histories(torch.zeros(3, 0).long()), tokens=tokens, lengths=lengths)
    embedded = ranker.embed_batch(batch)
    assert ranker.context is None and embedded.shape == (3, DIM)
    for query, found in zip(QUERIES, embedded.double(), strict=True):
        ids, _, own = pieces(QUERY_FIRST.replace("<|embedding|>", ""), query, ranker._described.tokenizer())
        with torch.no_grad():
            states = ranker.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0].double()
            pooled = ranker.head.weight.double() @ states[[*own, len(ids) - 1]].mean(dim=0)  # type: ignore[union-attr]
        torch.testing.assert_close(found, pooled / pooled.norm(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_llama"])
def test_candidates_are_the_mean_over_their_tokens_and_the_last_one(make: Make, name: str) -> None:
    ranker = make(name)
    tokenizer = ranker._described.tokenizer()
    with torch.no_grad():
        found = ranker.embed_candidates(*padded(ranker.tokenize_candidates(QUERIES)))
        for text, vector in zip(QUERIES, found.double(), strict=True):
            ids, _, own = pieces("{query}", text, tokenizer)
            states = ranker.backbone(input_ids=torch.tensor([ids])).last_hidden_state[0].double()
            pooled = ranker.head.weight.double() @ states[[*own, len(ids) - 1]].mean(dim=0)  # type: ignore[union-attr]
            torch.testing.assert_close(vector, pooled / pooled.norm(), rtol=1e-5, atol=1e-5)


def test_the_map_to_the_candidates_space_is_there_only_where_sizes_differ(make: Make) -> None:
    assert make().head.weight.shape == (DIM, 32)  # type: ignore[union-attr]
    folder = make()._described.model
    ranker = LRanker(32, Backbone(model=folder), max_length=60)
    ranker.configure_model()
    assert ranker.head is None


def test_vectors_have_length_one_only_if_asked_for(make: Make) -> None:
    ranker, plain = make(), make(normalize=False)
    tokens, contexts, vectors = padded(ranker.tokenize(QUERIES)), make_contexts(2), 3 * torch.randn(5, DIM).half()
    one, other = ranker.embedder(*tokens)(contexts), plain.embedder(*tokens)(contexts)
    torch.testing.assert_close(one, nn.functional.normalize(other, dim=-1))
    torch.testing.assert_close(one.norm(dim=-1), torch.ones(3, 2))
    torch.testing.assert_close(ranker.candidate_vectors(vectors).norm(dim=-1), torch.ones(5))
    assert torch.equal(plain.candidate_vectors(vectors), vectors.float())


def test_a_bf16_backbone_gives_the_embeddings_of_fp32_to_its_rounding(make: Make) -> None:
    exact, rounded, contexts = make(), make(dtype="bfloat16"), make_contexts(4)
    tokens = padded(exact.tokenize(QUERIES))
    found, expected = rounded.embedder(*tokens)(contexts), exact.embedder(*tokens)(contexts)
    assert found.dtype == torch.float32
    assert float((found * expected).sum(dim=-1).min()) > 0.999


def test_input_embeddings_start_on_the_scale_of_the_backbones_own(make: Make, pool: Any) -> None:
    ranker = make()
    ranker.prepare(pool, Partitions(pool.num_candidates, 5, 4, seed=0))
    weight = AutoModel.from_pretrained(ranker._described.model).embed_tokens.weight.detach()
    table = ranker.contexts.table  # type: ignore[union-attr]
    outputs = ranker.context.train()(table, table)  # type: ignore[misc]
    assert float(outputs.detach().square().mean().sqrt()) == pytest.approx(
        float(weight.square().mean().sqrt()), rel=0.05
    )


def test_on_the_meta_device_nothing_is_loaded() -> None:
    with torch.device("meta"):
        ranker = LRanker(DIM, Backbone(model="/nowhere"))
    assert ranker.backbone is None and ranker.context is None


def test_a_model_is_configured_once(make: Make) -> None:
    ranker = make()
    backbone, weights = ranker.backbone, {name: weight.clone() for name, weight in ranker.state_dict().items()}
    ranker.configure_model()
    assert ranker.backbone is backbone
    assert all(torch.equal(weight, weights[name]) for name, weight in ranker.state_dict().items())


def test_a_backbone_that_is_not_trained_drops_nothing(make: Make) -> None:
    assert not make("tiny_bert", lora=None).train().backbone.training
    assert make("tiny_bert").train().backbone.training


def test_long_queries_are_cut_to_fit_and_counted(make: Make) -> None:
    ranker = make(max_length=20)
    whole = ranker._described.tokenizer()([f" {query}" for query in QUERIES])["input_ids"]
    room = 20 - ranker._tokens.prompt.num_tokens
    assert ranker.tokenize(QUERIES) == [ids[:room] for ids in whole]
    assert ranker.num_cut == sum(len(ids) > room for ids in whole) > 0
    prefix = make(max_length=20, injection="prefix")
    assert max(map(len, prefix.tokenize(QUERIES))) + prefix._tokens.prompt.num_tokens + CENTROIDS == 20
    assert max(map(len, prefix.tokenize_candidates(["value " * 100]))) + 1 == 20


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_llama"])
def test_a_text_without_tokens_is_refused(make: Make, name: str) -> None:
    ranker = make(name)
    with pytest.raises(ValueError, match="text 1 of 2 has no tokens: ''"):
        ranker.tokenize(["a", ""])
    assert ranker.tokenize([]) == []


@pytest.mark.parametrize(("options", "part"), [
    ({"max_length": 129}, r"^ranker.max_length: 129 is more than the 128 tokens of"),
    ({"template": "no place"}, r"^ranker.template: 'no place' is no template's name"),
    ({"template": "for {query}"}, r"^ranker.template: has 0 places for what is known"),
    ({"lora": Lora(targets=["nothing"])}, r"^ranker.lora.targets: .* no linear layer 'nothing'"),
])  # fmt: skip
def test_options_that_cannot_work_are_refused(make: Make, options: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        make(**options)


def test_prompts_without_room_for_a_query_are_refused(make: Make) -> None:
    for max_length, options in ((6, {}), (20, {"injection": "prefix", "aggregator": "kmeans"})):
        problem = rf"^ranker.max_length: {max_length} leaves no place for a query: the prompt alone has"
        with pytest.raises(ConfigError, match=problem):
            make(max_length=max_length, **options)
