"""recorded: responses that exist already, as their source gives them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from console.progress import Report
from features.responses.generation import Generated
from features.texts.tasks import Problem
from language_models.language_model import LanguageModel
from registry import GENERATORS
from registry.ranges import Count


@GENERATORS.register("recorded")
@dataclass(frozen=True)
class RecordedGenerator(LanguageModel):
    """Gives the responses of the source; the model, usually the one that gave them, is asked for hidden states only.

    A prompt is made of the messages as if the model were to respond now. Where a response comes with its tokens, they
    follow it; where it does not, those of its text do, then the token that ends the model's turn unless the response is
    marked as cut.

    Args:
        model: Name on the Hugging Face hub, or a folder.
        package: An installed Python package that carries the model, in its folder `model` or as a GGUF file; looked in
            first.
        revision: Commit, tag or branch on the hub.
        sha256: The weights must have this hash; with several files, that of their contents one after the other.
        gguf: The GGUF file that holds model and tokenizer, quantized or not; null for safetensors.
        dtype: Of the computation. `auto` is bfloat16 on a GPU or processor that has it, where it is several times as
            fast, else float32.
        template: What makes a prompt of messages: `chat` for the model's own template, `plain` for their contents with
            a blank line between, or a Jinja template of your own.
        template_options: What the template is told besides, such as `{enable_thinking: false}`.
        device: `cpu`, `cuda`, ...; `auto` is the first GPU if there is one.
        device_map: How accelerate spreads the model over devices, such as `auto`; then `device` has no meaning.
        depths: Of the hidden states, as fractions of all layers; none for texts alone.
        layer_offset: Added to the layer of each depth; -1 is one block lower.
        batch_tokens: Tokens that are read at once, padding included; more pays on a GPU.
        num_responses: To each problem, the first ones; null for all.
    """

    num_responses: Count | None = None

    def settings(self) -> dict[str, Any]:
        """Nothing: the responses depend on their source alone."""
        return {"name": "recorded"}

    def generate(
        self, problems: Sequence[Problem], numbers: range, report: Report | None = None
    ) -> Iterator[Generated]:
        """The responses of these numbers, as far as there are any, as they are; `with_states` reads them.

        Args:
            problems: Any number.
            numbers: Which responses, counted from 0.
            report: Told of each problem's.
        """
        for problem in problems:
            responses = problem.responses[numbers.start : numbers.stop : numbers.step]
            if report:
                report(len(responses), 0)
            yield Generated(problem, responses, refusal=None if responses else "no response")
