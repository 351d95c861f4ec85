"""Settings: the limits of a server, and who may use it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """The limits of a server, and who may use it.

    Args:
        api_key: What requests must have as `Authorization: Bearer KEY`; None if only this machine is served.
        max_body: The most bytes of a request.
        max_documents: The most documents of a request, also of one that searches or chooses a model.
        max_waiting: The most texts that may wait for each ranker; further requests are refused with 429.
        batch_texts: The most texts that a ranker reads at once; a larger request is read alone.
        batch_seconds: How long the first request of a batch waits for others while the ranker is idle.
        timeout: Seconds until a request that has no answer is given up with 504.
        max_candidates: The most candidates of a chat.
        max_tokens: The most tokens of a candidate.
        max_waiting_candidates: The most candidates that may wait or be sampled; further chats are refused with 429.
        chat_timeout: Seconds until a chat that has no answer is given up with 504.
        num_remembered: Of how many texts each ranker remembers the encoder's vectors.
        learn_after: After how much new feedback of a user a head is trained.
        learn_every: The most seconds until feedback is seen that was given to another server of the same database.
        log_texts: Whether logs have queries; by default they have no text of any request.
    """

    api_key: str | None = field(default=None, repr=False)
    max_body: int = 8 * 2**20
    max_documents: int = 1000
    max_waiting: int = 4000
    batch_texts: int = 256
    batch_seconds: float = 0.002
    timeout: float = 30.0
    max_candidates: int = 64
    max_tokens: int = 4096
    max_waiting_candidates: int = 640
    chat_timeout: float = 300.0
    num_remembered: int = 100_000
    learn_after: int = 5
    learn_every: float = 5.0
    log_texts: bool = False
