"""States: reads hidden states of existing responses with a language model."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from console.progress import Report
from features.responses.generation import Generated
from features.texts.tasks import Response
from language_models.conversation import Conversation
from language_models.language_model import LanguageModel


def with_states(
    model: LanguageModel, generated: Iterable[Generated], report: Report | None = None
) -> Iterator[Generated]:
    """Add the tokens of prompts and responses, and their states at the model's `depths`.

    A response is left out if it is longer than the model's context, together with its prompt.

    Args:
        model: The model that reads the states.
        generated: Responses to process together; states that they already have are ignored.
        report: Called after each batch.
    """
    kept, conversations = [], []
    for each in generated:
        prompt = model.chat.prompt(each.task.messages)
        tokens = [_tokens_of(model, response) for response in each.responses]
        room = len(prompt) + max(map(len, tokens), default=0) if model.context is None else model.context
        fits = [len(prompt) + len(one) <= room and bool(prompt) for one in tokens]
        responses = [
            replace(response, tokens=one)
            for response, one, fit in zip(each.responses, tokens, fits, strict=True)
            if fit
        ]
        refusal = None if responses else model.refusal(len(prompt)) or each.refusal or "no response"
        dropped = each.dropped + len(tokens) - len(responses)
        kept.append(replace(each, responses=responses, prompt_tokens=len(prompt), refusal=refusal, dropped=dropped))
        if responses:
            conversations.append(Conversation(prompt, [one for one, fit in zip(tokens, fits, strict=True) if fit]))
    states = model.states(conversations, report)
    for each in kept:
        if not each.responses:
            yield each
            continue
        found = next(states)
        yield replace(each, query_states=found.query, response_states=found.responses)


def _tokens_of(model: LanguageModel, response: Response) -> Sequence[int]:
    if response.tokens is not None:
        return response.tokens
    return model.chat.response_tokens(response.text, response.finish)
