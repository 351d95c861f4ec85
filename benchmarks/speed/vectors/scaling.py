"""Scaling: test-time scaling with prefixes read once and parts clustered together, against whole prompts."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.comparison import Comparison, Ratio, in_turns, seconds_of
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from benchmarks.speed.vectors.plain_scaling import PlainScaling
from language_models.backbone import Backbone
from rankers.lranker.lranker import LRanker
from rankers.lranker.prompt import Prompt
from rankers.lranker.query_embedder import QueryEmbedder
from rankers.lranker.scaling.scaling import scale
from ranking.pools.pool_batch import Contexts
from ranking.vectors.search import top_k

PAPER = {
    "source": "LRanker: table 16 for the overhead of scaling, width 9 and depth 6, table 15 for the latency; A6000",
    "overhead_percent": 6.5,
    "milliseconds_per_query": 20,
}
_ASSIGN_DIM = 128
_REPEATS = 2  # each takes a minute
_GPU_BATCHES = (1, 32)


@dataclass(frozen=True)
class Shape:
    """The sizes of pool, backbone and scaling; by default those of MS MARCO and Qwen3-0.6B, except the vocabulary.

    Args:
        num_candidates: N, the number of candidates.
        dim: Size of candidate vectors and width of the backbone.
        num_layers: Number of blocks of the backbone.
        num_heads: Number of attention heads; keys and values have half as many.
        head_dim: Size of each head.
        mlp_dim: Inner size of the feed-forward layers.
        num_centroids: K, the number of centroids.
        width: Number of parts in a step.
        depth: Number of steps.
        query_tokens: Lengths of queries: a history of 20 items, and a short question.
    """

    num_candidates: int = 24_697
    dim: int = 1024
    num_layers: int = 28
    num_heads: int = 16
    head_dim: int = 128
    mlp_dim: int = 3072
    num_centroids: int = 20
    width: int = 9
    depth: int = 6
    query_tokens: tuple[int, ...] = (180, 12)


FULL = Shape()
SMALL = Shape(600, 16, 2, 2, 8, 32, num_centroids=4, width=3, depth=2, query_tokens=(20, 4))


@dataclass(frozen=True)
class RandomBackbone(Backbone):
    """A causal model with this shape and random weights, and a tokenizer of words."""

    shape: Shape = FULL

    def tokenizer(self) -> Any:
        """A tokenizer with one token per word or run of punctuation, as in large vocabularies."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = {"<unk>": 0, "<eos>": 1}
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")

    def load(self, device_map: str | None = None) -> Any:
        """The model, with the same weights at each call."""
        from transformers import Qwen3Config, Qwen3Model

        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=1000,
            hidden_size=self.shape.dim,
            num_hidden_layers=self.shape.num_layers,
            num_attention_heads=self.shape.num_heads,
            num_key_value_heads=self.shape.num_heads // 2,
            head_dim=self.shape.head_dim,
            intermediate_size=self.shape.mlp_dim,
        )
        return Qwen3Model(config).to(getattr(torch, self.dtype)).eval()


class Case:
    """Queries of one length, to rank in both ways.

    Args:
        shape: The sizes.
        device: The device of our way; the plain way runs on the CPU.
        dtype: Number format of the backbone.
    """

    def __init__(self, shape: Shape, device: str = "cpu", dtype: Any = "float32") -> None:
        self.shape, self.device = shape, torch.device(device)
        backbone = RandomBackbone(dtype=dtype, shape=shape)
        aggregator = {"name": "kmeans", "num_centroids": shape.num_centroids, "assign_dim": _ASSIGN_DIM}
        longest = max(shape.query_tokens) + 64
        self.ranker = LRanker(shape.dim, backbone, aggregator=aggregator, lora=None, max_length=longest)
        self.ranker.configure_model()
        self.ranker.eval().to(self.device)
        assert self.ranker.aggregator is not None and self.ranker.context is not None
        self.aggregator, self.projection = self.ranker.aggregator, self.ranker.context
        self.prompt = Prompt.of("passage_ranking", backbone.tokenizer(), placed=True)
        self.table = clustered(shape).to(self.device)
        self.whole = self.aggregator.summarise_pool(self.table, None, 0)
        halves = torch.randperm(len(self.table), generator=torch.Generator().manual_seed(2)).to(self.device)
        rows = halves[: len(halves) // 8 * 8].view(8, -1)
        self.projection.calibrate(
            self.aggregator.summarise_rows(self.table, rows, torch.ones_like(rows, dtype=torch.bool), 0)
        )

    def query(self, length: int, batch: int = 1) -> Int[Tensor, "B T"]:
        """Random tokens."""
        draw = torch.Generator().manual_seed(length)
        return torch.randint(2, 1000, (batch, length), generator=draw).to(self.device)

    def ours(
        self, tokens: Int[Tensor, "B T"], width: int, depth: int, clock: "Clock | None" = None
    ) -> Float[Tensor, "B steps E"]:
        """Compute the ten best candidates from tokens; return the embeddings of all steps."""
        clock = clock or Clock()
        lengths = torch.full((len(tokens),), tokens.shape[1], device=self.device)
        with clock("prefix"):
            embed = self.ranker.embedder(tokens, lengths)
        embedder = TimedEmbedder(embed, clock, "suffixes")
        with clock.counting(self.aggregator, "summarise_rows", "k-means"):
            sets = embedder, self.table, self.aggregator, self.whole
            found = scale(*sets, num_queries=len(tokens), width=width, depth=depth)
        top_k(found.mean(dim=1), self.table, 10)
        return found

    def plain(self) -> PlainScaling:
        """The plain way on the same backbone and candidates."""
        shape, vectors = self.shape, self.table.numpy()
        return PlainScaling(
            self.ranker.backbone, self.prompt, self.projection, vectors, shape.num_centroids, _ASSIGN_DIM
        )


class Clock:
    """Counts the seconds of named parts of the work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the seconds in this context."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    @contextmanager
    def counting(self, thing: nn.Module, method: str, name: str) -> Iterator[None]:
        """Count the seconds of a method."""
        work = getattr(thing, method)

        def run(*arguments: Any) -> Any:
            with self(name):
                return work(*arguments)

        setattr(thing, method, run)
        yield
        delattr(thing, method)


@dataclass
class TimedEmbedder:
    """An embedder whose seconds are counted; it remembers the contexts.

    Args:
        embed: The embedder.
        clock: Counts.
        name: Under this name.
    """

    embed: QueryEmbedder
    clock: Clock
    name: str
    seen: list[Contexts] = field(default_factory=list)

    def __call__(self, contexts: Contexts) -> Tensor:
        """Embed and count."""
        self.seen.append(contexts)
        with self.clock(self.name):
            return self.embed(contexts)

    def keep(self, queries: Tensor) -> None:
        """Embed only these queries from now on."""
        self.embed.keep(queries)


def measure(data: Path, workload: Workload = MBPP, repeats: int = _REPEATS) -> Comparison:
    """Rank the pool for one query of each length, in each way; on a GPU also for batches, scaled and directly.

    Args:
        data: Not used.
        workload: The tiny one stands for a tiny pool and backbone.
        repeats: How often each way runs, at most twice, because plain runs take minutes.

    Raises:
        AssertionError: If embeddings differ by more than rounding from those of whole prompts with the same contexts.
    """
    shape = SMALL if workload == TINY else FULL
    case, rate = Case(shape), machine.multiplications_per_second()
    plain, works, ways, ratios = case.plain(), {}, {}, []
    clocks: dict[int, Clock] = {}
    facts: dict[str, dict[str, Any]] = {}
    for length in shape.query_tokens:
        tokens, clocks[length] = case.query(length), Clock()
        direct, ours, whole = (f"{way}, {length} tokens" for way in ("direct", "scaled", "plain"))
        works |= {
            direct: partial(case.ours, tokens, 0, 0),
            ours: partial(case.ours, tokens, shape.width, shape.depth, clocks[length]),
            whole: partial(plain.rank, tokens[0].tolist(), case.whole, shape.width, shape.depth),
        }
        ways |= {
            direct: f"a query of {length} tokens: one prompt, depth 0",
            ours: "the same with scaling: its prefix read once, all parts of a step clustered and read together",
            whole: "the same, every part's whole prompt read, parts batched; scikit-learn's KMeans part by part",
        }
        ratios += [Ratio(whole, ours, at_least=4 if length == max(shape.query_tokens) else None), Ratio(ours, direct)]
        facts[f"{length} tokens"] = {"check": check(case, plain, tokens), "floor": floor(case, length, rate)}
    seconds = in_turns({name: partial(seconds_of, work) for name, work in works.items()}, min(repeats, _REPEATS))
    for length, clock in clocks.items():
        total = sum(seconds[f"scaled, {length} tokens"])
        shares = {name: value / total for name, value in clock.seconds.items()}
        facts[f"{length} tokens"]["shares"] = shares | {"splitting, scoring, choosing": 1 - sum(shares.values())}
    found = Comparison(
        name="scaling",
        question=f"what does test-time scaling cost at width {shape.width}, depth {shape.depth}?",
        ways=ways,
        seconds=seconds,
        ratios=ratios,
        facts={"shape": asdict(shape), "gflop_per_second": rate / 1e9, **facts, "paper": PAPER},
    )
    return _with_gpu(found, shape, repeats) if torch.cuda.is_available() else found


def check(case: Case, plain: PlainScaling, tokens: Int[Tensor, "1 T"], depth: int = 2) -> dict[str, float]:
    """The distance of our embeddings from those of whole prompts with the same contexts.

    Raises:
        AssertionError: If it exceeds a hundredth of the distance between embeddings in different parts.
    """
    embed = TimedEmbedder(case.ranker.embedder(tokens, torch.tensor([tokens.shape[1]])), Clock(), "suffixes")
    sets = embed, case.table, case.aggregator, case.whole
    found = scale(*sets, num_queries=1, width=case.shape.width, depth=depth)[0]
    first, *later = (plain.read(tokens[0].tolist(), Contexts(*(part[0] for part in each))) for each in embed.seen)
    expected = [first[0]]
    for fresh in later:
        expected.append((expected[-1] + fresh.sum(dim=0)) / (1 + len(fresh)))
    spread = float(torch.cat(later).std(dim=0).norm())
    difference = float((found - torch.stack(expected)).norm(dim=1).max())
    assert difference <= spread / 100, f"{difference:.1e} from whole prompts, where parts are {spread:.1e} apart"
    return {"difference": difference, "spread_over_parts": spread}


def floor(case: Case, length: int, rate: float) -> dict[str, float]:
    """The necessary products: the prefix once and the rest once per context; for comparison, all prompts whole."""
    shape, prompt = case.shape, case.prompt
    assert prompt.placeholder is not None
    prefix = len(prompt.before) + length + prompt.placeholder
    suffix, contexts = len(prompt.after) - prompt.placeholder, 1 + shape.width * shape.depth
    weights = sum(module.weight.numel() for module in case.ranker.backbone.modules() if isinstance(module, nn.Linear))
    attention = 4 * shape.num_heads * shape.head_dim * shape.num_layers
    of_prefix = prefix * (2 * weights + attention * prefix / 2)
    of_suffix = suffix * (2 * weights + attention * (prefix + suffix / 2))
    shared, whole = of_prefix + contexts * of_suffix, contexts * (of_prefix + of_suffix)
    return {
        "prefix_tokens": prefix,
        "suffix_tokens": suffix,
        "contexts": contexts,
        "gflop": shared / 1e9,
        "gflop_of_whole_prompts": whole / 1e9,
        "gflop_of_direct_ranking": (of_prefix + of_suffix) / 1e9,
        "seconds": shared / rate,
        "seconds_of_whole_prompts": whole / rate,
    }


def clustered(shape: Shape) -> Float[Tensor, "N D"]:
    """Candidates of length one around a few hundred centres, some of which are near each other."""
    draw = torch.Generator().manual_seed(1)
    topics = torch.randn(20, shape.dim, generator=draw)
    centres = topics[torch.randint(20, (400,), generator=draw)] + torch.randn(400, shape.dim, generator=draw)
    near = centres[torch.randint(400, (shape.num_candidates,), generator=draw)]
    return nn.functional.normalize(near + torch.randn(shape.num_candidates, shape.dim, generator=draw), dim=1)


def _with_gpu(found: Comparison, shape: Shape, repeats: int) -> Comparison:
    """Add ways that run on the GPU in bf16: the ten best candidates for batches, with and without scaling."""
    case = Case(shape, "cuda", "bfloat16")
    case.table, rate = case.table.half(), _gpu_multiplications_per_second()
    length = max(shape.query_tokens)
    ways, works, ratios = dict(found.ways), {}, list(found.ratios)
    facts: dict[str, Any] = {"gflop_per_second": rate / 1e9}
    for batch in _GPU_BATCHES:
        tokens = case.query(length, batch)
        direct, scaled = (f"GPU, {way}, batch of {batch}" for way in ("direct", "scaled"))
        works |= {direct: partial(case.ours, tokens, 0, 0)}
        works |= {scaled: partial(case.ours, tokens, shape.width, shape.depth)}
        ways |= {direct: f"{batch} queries of {length} tokens on the GPU, depth 0", scaled: "the same with scaling"}
        ratios.append(Ratio(scaled, direct))

    def timed(work: Callable[[], Any]) -> float:
        torch.cuda.synchronize()
        return seconds_of(lambda: (work(), torch.cuda.synchronize()))

    for work in works.values():
        timed(work)
    seconds = in_turns({name: partial(timed, work) for name, work in works.items()}, repeats)
    least = floor(case, length, rate)
    facts |= {"floor_milliseconds_per_query": 1e3 * least["seconds"]}
    facts |= {"floor_overhead_percent": 100 * (least["gflop"] / least["gflop_of_direct_ranking"] - 1)}
    for batch in _GPU_BATCHES:
        direct, scaled = (median(seconds[f"GPU, {way}, batch of {batch}"]) for way in ("direct", "scaled"))
        facts[f"batch of {batch}"] = {
            "overhead_percent": 100 * (scaled / direct - 1),
            "milliseconds_per_query": 1e3 * scaled / batch,
            "milliseconds_per_query_directly": 1e3 * direct / batch,
        }
    return Comparison(
        found.name, found.question, ways, {**found.seconds, **seconds}, ratios, {**found.facts, "gpu": facts}
    )


def _gpu_multiplications_per_second(size: int = 8192) -> float:
    """The highest measured number of floating-point operations per second, in a large bf16 product on the GPU."""
    matrix = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    seconds = []
    for _ in range(10):
        torch.cuda.synchronize()
        seconds.append(seconds_of(lambda: (matrix @ matrix, torch.cuda.synchronize())))
    return 2 * size**3 / min(seconds)
