"""RewardModel: a language model with a scalar head that scores responses (Language Ranker's baselines, table 1)."""

from typing import Annotated, ClassVar, Unpack

from language_models.backbone import Backbone
from rankers.text.text_ranker import TextOptions, TextRanker
from registry import OPTIMIZERS, RANKERS, SCHEDULES, Node
from registry.ranges import Count, Text

DEFAULT_BACKBONE = Backbone(model="Qwen/Qwen2.5-0.5B-Instruct")


@RANKERS.register("reward_model")
class RewardModel(TextRanker):
    """A reward model: r(q, c) = w . h + b, with h the state of the last token of query and response.

    Trained on pairs by the model of Bradley and Terry (1952), as in Ouyang et al. 2022 (arXiv 2203.02155), eq. 1; other
    losses learn from whole groups or from labels.

    Args:
        backbone: The language model: causal or bidirectional.
        template: How a query and a response become a text: `chat` for the tokenizer's chat template, `plain` for query
            and response alone, `pair` for a bidirectional model's form of two texts, or your own.
        max_length: The most tokens of query and response together; the ends of longer responses are cut off.
    """

    default_loss: ClassVar[Node] = "pairwise_logistic"

    def __init__(
        self,
        backbone: Backbone = DEFAULT_BACKBONE,
        template: Text = "chat",
        max_length: Count = 1024,
        optimizer: Annotated[Node, OPTIMIZERS] = "adamw",
        schedule: Annotated[Node, SCHEDULES] = {"name": "cosine", "warmup": 0.05},  # noqa: B006
        **options: Unpack[TextOptions],
    ) -> None:
        super().__init__(backbone, template, max_length, optimizer=optimizer, schedule=schedule, **options)
