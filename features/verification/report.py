"""Report: the verdicts of a file, counted by reason, with examples, and compared with given labels."""

import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from console.decimals import short
from features.texts.tasks import Response, Task
from features.verification.verdict import Verdict

_MOST_SHOWN = 400


class Judged(NamedTuple):
    """A response with its task and verdict."""

    task: Task
    response: Response
    verdict: Verdict

    @property
    def kind(self) -> str:
        """The label and the kind of the reason, without what follows its colon, which differs between responses."""
        label = "no verdict" if self.verdict.label is None else short(self.verdict.label)
        reason = self.verdict.reason.partition(":")[0]
        return f"{label}: {reason}" if reason else label

    def record(self) -> dict[str, Any]:
        """All that is known, as plain values."""
        verdict = {"label": self.verdict.label, "reason": self.verdict.reason, "answer": self.verdict.answer}
        return {"query_id": self.task.query_id, "response": self.response.id, **verdict, "given": self.response.label}


@dataclass(frozen=True)
class VerdictReport:
    """The verdicts of some responses."""

    judged: Sequence[Judged]

    @property
    def counts(self) -> dict[str, int]:
        """How many responses have each label and kind of reason, the most frequent first."""
        return dict(Counter(each.kind for each in self.judged).most_common())

    @property
    def agreement(self) -> dict[str, int | float]:
        """How many verdicts equal the given labels, and how many are higher and lower; empty if none is given.

        Two labels are equal if both are at least 0.5 or both are below.
        """
        both = [
            (each.verdict.label, each.response.label)
            for each in self.judged
            if each.verdict.label is not None and each.response.label is not None
        ]
        if not both:
            return {}
        higher = sum(label >= 0.5 > given for label, given in both)
        lower = sum(label < 0.5 <= given for label, given in both)
        agree = len(both) - higher - lower
        return {"compared": len(both), "agree": agree, "higher": higher, "lower": lower, "share": agree / len(both)}

    @property
    def disagreements(self) -> list[Judged]:
        """The responses whose verdict and given label differ."""
        return [
            each
            for each in self.judged
            if each.verdict.label is not None
            and each.response.label is not None
            and (each.verdict.label >= 0.5) != (each.response.label >= 0.5)
        ]

    def results(self) -> dict[str, Any]:
        """The counts and the agreement, as plain values."""
        labels = [each.verdict.label for each in self.judged if each.verdict.label is not None]
        mean = math.fsum(labels) / len(labels) if labels else None
        return {
            "responses": len(self.judged),
            "judged": len(labels),
            "mean": mean,
            "counts": self.counts,
            "agreement": self.agreement,
        }

    def lines(self) -> Iterator[str]:
        """Each verdict as a line of JSON."""
        return (json.dumps(each.record(), ensure_ascii=False) + "\n" for each in self.judged)

    def groups(self) -> Iterator[str]:
        """Each task with the responses that have a verdict, as a line of the form that `jsonl` and `problems` read.

        The prompt is kept if it is more than the query, and the reference if it is an answer, or several; tests and
        calls are not.
        """
        for task, judged in itertools.groupby(self.judged, key=lambda each: each.task):
            candidates = [
                {"id": each.response.id, "text": each.response.text, "label": each.verdict.label}
                for each in judged
                if each.verdict.label is not None
            ]
            if candidates:
                more: dict[str, Any] = {"answer": task.reference} if isinstance(task.reference, str | list) else {}
                more |= {"split": task.split} if task.split else {}
                if task.messages != [{"role": "user", "content": task.query}]:
                    more["messages"] = task.messages
                record = {"query_id": task.query_id, "query": task.query, **more, "candidates": candidates}
                yield json.dumps(record, ensure_ascii=False) + "\n"

    def page(self, examples: int = 20) -> str:
        """A page of Markdown: the counts, and examples of each kind, spread evenly over all responses.

        Args:
            examples: How many to show of each kind.
        """
        kinds: dict[str, list[Judged]] = defaultdict(list)
        for each in self.judged:
            kinds[each.kind].append(each)
        parts = ["# Verdicts\n", "| verdict | responses |\n|---|---:|"]
        parts += [f"| {kind} | {count:,} |" for kind, count in self.counts.items()]
        if agreement := self.agreement:
            parts.append("\n" + ", ".join(f"{name} {value:g}" for name, value in agreement.items()) + "\n")
            kinds["differs from the given label"] = self.disagreements
        for kind, judged in kinds.items():
            parts.append(f"\n## {kind} ({len(judged):,})\n")
            step = max(1, len(judged) // examples)
            parts += [_example(each) for each in judged[::step][:examples]]
        return "\n".join(parts) + "\n"


def _example(each: Judged) -> str:
    text = each.response.text if len(each.response.text) <= _MOST_SHOWN else "…" + each.response.text[-_MOST_SHOWN:]
    fence = "~" * max(3, 1 + max((len(run) for run in text.split() if set(run) == {"~"}), default=0))
    given = "" if each.response.label is None else f", given {short(each.response.label)}"
    reference = json.dumps(each.task.reference, ensure_ascii=False)[:_MOST_SHOWN]
    facts = f"`{each.task.query_id}` response `{each.response.id}`: {each.verdict.reason or each.kind}{given}"
    return f"{facts}\n\nreference `{reference}`, answer `{each.verdict.answer}`\n\n{fence}\n{text}\n{fence}\n"
