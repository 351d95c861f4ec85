"""ByK: compares a ranker and the baselines as the number of responses to choose from grows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from console.progress import WorkProgress
from datamodules.group_data import GroupData
from rankers.base import Ranker
from rankers.judging.groups import GroupJudging
from rankers.judging.remembered_scores import RememberedScores
from ranking.figures import write_figure
from ranking.significance import Interval
from registry import RANKERS
from training.pages.figures import by_k_figure
from training.results.report import mean_of, plain

_LADDER = (1, 3, 5, 10, 20, 50)
_DRAWS = 10


@dataclass(frozen=True)
class ByK:
    """One metric of every scorer on K drawn candidates per query, for several K.

    Args:
        metric: The metric's name.
        ks: The values of K, ascending.
        means: Scorer -> the mean over queries for each K, with a 95 % bootstrap interval.
    """

    metric: str
    ks: Sequence[int]
    means: Mapping[str, Sequence[Interval]]

    @classmethod
    @torch.no_grad()
    def of(cls, ranker: Ranker[Any], datamodule: GroupData, metric: str) -> "ByK":
        """Draw K stored candidates of each test query and rank them; ten draws if a query has more than K.

        A pointwise ranker scores each candidate once, whatever the number of draws.

        Args:
            ranker: A trained ranker.
            datamodule: The datamodule it was trained on.
            metric: One of the ranker's metrics.
        """
        most, name = datamodule.most_candidates("test"), RANKERS.name_of(type(ranker))
        ks = [k for k in (*_LADDER, *(10**power for power in range(2, 6))) if k < most] + [most]
        metrics = {metric: ranker.metrics[metric]}
        means: dict[str, list[Interval]] = {}
        ranker.eval()
        judged, *beside = (
            RememberedScores(each, datamodule.evaluation_batches("test", most, 1), len(datamodule.store.label))
            if each.is_pointwise
            else each
            for each in (ranker, *ranker.references.values())
        )
        references = dict(zip(ranker.references, beside, strict=True))
        with WorkProgress(len(ks), doing="By K", done="By K: judged", unit="values of K", brief=True) as shown:
            for k in ks:
                judging = GroupJudging(judged, references, distributed=False)
                for batch in datamodule.evaluation_batches("test", k, _DRAWS if k < most else 1):
                    judging.update(batch.to(ranker.device))
                found = judging.judge()
                left_out = found.left_out()
                values = {name: found.per_query(metrics), **found.baselines(metrics)}
                for scorer, of in values.items():
                    kept = ~left_out[scorer] if scorer in left_out else slice(None)
                    means.setdefault(scorer, []).append(mean_of(of[metric][kept]))
                shown.report(1)
        return cls(metric, ks, means)

    def results(self) -> dict[str, Any]:
        """All results as plain values for a json file."""
        scorers = {scorer: [plain(mean) for mean in means] for scorer, means in self.means.items()}
        return {"metric": self.metric, "ks": list(self.ks), "draws": _DRAWS, "scorers": scorers}

    def draw(self, path: Path) -> None:
        """Draw the curves as a PNG; the file is written completely or not at all.

        Args:
            path: The file to write.
        """
        write_figure(by_k_figure(self.results()), path)
