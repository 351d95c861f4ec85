"""Metrics: the counts and times of a server, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serving.chat.best_of import Answer

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_CHAT_SECONDS = (0.0005, 0.001, 0.0025, *_SECONDS, 60, 120, 300)
_TEXTS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000)


class Metrics:
    """What a server counts and measures; each has its own, so that one process can have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter("rankers_requests", "Answered requests.", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "rankers_request_seconds",
            "Time until a request is answered.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.running = Gauge("rankers_requests_running", "Requests that are being answered.", registry=registry)
        self._waiting = Gauge("rankers_waiting_texts", "Texts that wait for a ranker.", ["ranker"], registry=registry)
        self._batch = Histogram(
            "rankers_batch_texts", "Texts of a batch.", ["ranker"], buckets=_TEXTS, registry=registry
        )
        self._together = Histogram(
            "rankers_batch_requests", "Requests of a batch.", ["ranker"], buckets=_TEXTS, registry=registry
        )
        self._busy = Counter(
            "rankers_busy_seconds", "Time for which a ranker has worked.", ["ranker"], registry=registry
        )

        self._feedback = Counter("rankers_feedback", "Feedback that was kept.", ["ranker", "kind"], registry=registry)
        self._trainings = Counter(
            "rankers_trainings", "Trainings of users' heads.", ["ranker", "outcome"], registry=registry
        )
        self._tokens = Counter("rankers_tokens", "Tokens of chats.", ["ranker", "kind"], registry=registry)
        self._candidates = Counter("rankers_candidates", "Candidates of chats.", ["ranker"], registry=registry)
        self._answer = Histogram(
            "rankers_chat_seconds",
            "Time for which the candidates of a chat are sampled, and ranked.",
            ["ranker", "part"],
            buckets=_CHAT_SECONDS,
            registry=registry,
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, ranker: str, questions: int, size: int, seconds: float) -> None:
        """Count a batch."""
        self._together.labels(ranker).observe(questions)
        self._batch.labels(ranker).observe(size)
        self._busy.labels(ranker).inc(seconds)

    def feedback(self, ranker: str, kind: str) -> None:
        """Count a piece of feedback."""
        self._feedback.labels(ranker, kind).inc()

    def training(self, ranker: str, outcome: str) -> None:
        """Count a training of a user's head."""
        self._trainings.labels(ranker, outcome).inc()

    def answer(self, ranker: str, answer: Answer) -> None:
        """Count the answer to a chat."""
        self._candidates.labels(ranker).inc(len(answer.candidates))
        self._tokens.labels(ranker, "prompt").inc(answer.prompt_tokens)
        self._tokens.labels(ranker, "sampled").inc(answer.new_tokens)
        self._answer.labels(ranker, "sampling").observe(answer.sampling_seconds)
        self._answer.labels(ranker, "ranking").observe(answer.ranking_seconds)

    def watch_queue(self, ranker: str, size: Callable[[], int]) -> None:
        """Report how much waits for a ranker whenever the metrics are read."""
        self._waiting.labels(ranker).set_function(size)

    def text(self) -> bytes:
        """All metrics as Prometheus reads them."""
        return generate_latest(self.registry)
