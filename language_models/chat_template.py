"""ChatTemplate: converts messages and responses to a model's tokens, and tokens to texts."""

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from registry import ConfigError

Message = Mapping[str, str]
"""A dictionary with `role` and `content`, as chat templates expect."""

TEMPLATES = {"chat": None, "plain": "{{ messages | map(attribute='content') | join('\n\n') }}"}
"""Named templates, as Jinja; None stands for the tokenizer's own template."""

_MARK = "response"


class ChatTemplate:
    """A tokenizer and the template that turns messages into prompts.

    Args:
        tokenizer: A tokenizer of the transformers library.
        template: A name of `TEMPLATES`, or a Jinja template.
        options: Further variables for the template.
        ends: Tokens that end a text, according to the model's files.
        path: The yaml path of the template, for error messages.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str = "chat",
        options: Mapping[str, Any] | None = None,
        ends: Collection[int] = (),
        path: str = "template",
    ) -> None:
        self._tokenizer, self._template, self._options, self._path = tokenizer, template, options or {}, path
        own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self._named_ends = frozenset((*ends, *own))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a prompt, including everything that the template puts before the response.

        Raises:
            ConfigError: If there is no template, or it refuses the messages.
        """
        tokens = self.tokens(self._rendered(messages, add_generation_prompt=True))
        return [self._tokenizer.bos_token_id, *tokens] if self._starts_texts else tokens

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, without special tokens around it."""
        return self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special tokens."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def response_tokens(self, text: str, finish: str | None) -> list[int]:
        """The tokens of a response whose text is known, as the model would have generated them.

        Args:
            text: The response, without special tokens.
            finish: `length` if the response was cut. With any other value it gets the token that ends a response.
        """
        end = [] if finish == "length" or self.turn_end is None else [self.turn_end]
        return self.tokens(text) + end

    @cached_property
    def ends(self) -> frozenset[int]:
        """All tokens that end a response."""
        return self._named_ends if self.turn_end is None else self._named_ends | {self.turn_end}

    def ends_with(self, stop: Sequence[str]) -> frozenset[int]:
        """`ends`, and those stop strings that are special tokens, which decoded texts do not contain."""
        return self.ends | {token for token in self._special if self._tokenizer.convert_ids_to_tokens(token) in stop}

    @cached_property
    def turn_end(self) -> int | None:
        """The token that ends a response: the first ending or special token that the template puts after it.

        If the template puts none there, or leaves responses out, it is the tokenizer's end-of-text token.
        """
        messages = [{"role": "user", "content": "query"}, {"role": "assistant", "content": _MARK}]
        _, mark, rest = self._rendered(messages, add_generation_prompt=False).rpartition(_MARK)
        after = rest if mark else ""
        return next((token for token in self.tokens(after) if token in self._special), self._tokenizer.eos_token_id)

    @cached_property
    def _special(self) -> frozenset[int]:
        added = {token for token, added in self._tokenizer.added_tokens_decoder.items() if added.special}
        return self._named_ends | added | set(self._tokenizer.all_special_ids)

    @cached_property
    def _starts_texts(self) -> bool:
        """Whether a begin-of-text token goes before each prompt; chat templates add their own."""
        start = self._tokenizer.bos_token_id
        return self._template == "plain" and start is not None and self._tokenizer("a")["input_ids"][0] == start

    def _rendered(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        template = TEMPLATES.get(self._template, self._template)
        if template is None and not self._tokenizer.chat_template:
            cure = "set `template: plain` for the messages' contents alone, or give your own Jinja template"
            raise ConfigError(self._path, "the model has no chat template.", cure=cure)
        try:
            return self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self._options,
            )
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(message.get("role", "?") for message in messages) or "none"
            problem = f"the template refuses messages with these roles: {roles} ({error})."
            raise ConfigError(self._path, problem, cure="use another template, or other messages") from error
