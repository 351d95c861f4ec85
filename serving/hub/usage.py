"""Usage: the code that uses a ranker of a repository, for its card; tests run it."""

from collections.abc import Mapping
from textwrap import dedent
from typing import Any

from rankers.base import Ranker
from rankers.lranker.lranker import LRanker
from rankers.pool_ranker import PoolRanker
from rankers.recommenders.tiger import Tiger
from ranking.batch import FeatureBatch, TextBatch

POOL = "data/my_pool"

QUERY_SIDE = """from sentence_transformers import SentenceTransformer

vectors = SentenceTransformer("{name}").encode_query(["sort a list"])"""

# What rankers with `extra` read of three candidates besides their vectors.
_EXTRA = {
    "log_probability": "log_probability=torch.tensor([-9.5, -7.0, -8.2])",
    "num_tokens": "num_tokens=torch.tensor([12, 8, 10])",
    "agreement": "answer=torch.tensor([1, 2, 1])",
    "self_certainty": "self_certainty=torch.tensor([0.5, 0.9, 0.7])",
}

_TEXTS = """
from serving.reranker import Reranker

reranker = Reranker.from_pretrained("{name}")
for document in reranker.rank("sort a list", ["def copy(x): ...", "def sorted(x): ..."]):
    print(document.score, document.text)
"""
_POOL = f'''
from serving.searcher import Searcher

searcher = Searcher.from_pretrained("{{name}}", pool="{POOL}")
for found in searcher.rank(["sort a list"], top_k=3)[0]:
    print(found.score, found.id, found.text)
'''
_VECTORS = """
import torch

from rankers.checkpoint import load_ranker
from ranking.batch import FeatureBatch

ranker = load_ranker("{name}")
query, candidates = torch.randn({dim}), torch.randn(3, {dim})
batch = FeatureBatch.of_group(query, candidates{known})
print(ranker(batch)[0].tolist())
"""
_HISTORIES = """
import torch

from rankers.checkpoint import load_ranker
from ranking.pools.pool_batch import PoolBatch

ranker = load_ranker("{name}")
# The numbers of the items that a user has seen, oldest first, as in the pool of the training.
batch = PoolBatch.of_histories(torch.tensor([[3, 1, 2]]))
{scores}
print(items.tolist(), scores.tolist())
"""
_BY_VECTORS = """
vectors = ranker.query_vectors(batch)[0, -1] @ ranker.candidates_to_rank().T
scores, items = vectors.topk(3)
"""
_BY_GENERATION = """
found = ranker.generate(batch)
scores, items = (each[0, :3] for each in found)
"""


def usage_of(ranker: type[Ranker[Any]], description: Mapping[str, Any], name: str) -> str:
    """The code that uses a ranker.

    Args:
        ranker: The class of the ranker.
        description: What `Ranker.description` returns.
        name: The repository, as `user/name`.
    """
    options = description["ranker"]
    if issubclass(ranker, LRanker):
        code = _POOL.format(name=name)
    elif issubclass(ranker, PoolRanker):
        scores = _BY_GENERATION if issubclass(ranker, Tiger) else _BY_VECTORS
        code = _HISTORIES.format(name=name, scores=scores.strip())
    elif issubclass(ranker.batch_type, FeatureBatch) and (description["encoder"] is None or options.get("extra")):
        known = "".join(f", {_EXTRA[each]}" for each in options.get("extra") or [])
        code = _VECTORS.format(name=name, dim=options["feature_dim"], known=known)
    elif issubclass(ranker.batch_type, FeatureBatch | TextBatch):
        code = _TEXTS.format(name=name)
    else:
        code = f'from rankers.checkpoint import load_ranker\n\nranker = load_ranker("{name}")'
    return dedent(code).strip()


def task_of(ranker: type[Ranker[Any]]) -> str | None:
    """The hub's name of what the ranker does, where the hub has one."""
    return "text-ranking" if issubclass(ranker, LRanker) or not issubclass(ranker, PoolRanker) else None
