"""LanguageModel: a pretrained causal model that reads chats, described so that it can be saved and made again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch

from features.problems import Message
from ranking.backbone import Backbone
from registry import ConfigError

TEMPLATES = {"chat": None, "plain": "{{ messages | map(attribute='content') | join('\n\n') }}"}
"""The names that `template` knows, and their Jinja; None for the tokenizer's own."""

_MARK = "response"


@dataclass(frozen=True)
class LanguageModel(Backbone):
    """A causal model of the transformers library, read from safetensors or GGUF and without code of its own.

    Args:
        model: Name on the Hugging Face hub, or a folder.
        package: An installed Python package that carries the model, in its folder `model` or as a GGUF file; looked in
            first.
        revision: Commit, tag or branch on the hub.
        sha256: The weights must have this hash; with several files, that of their contents one after the other.
        gguf: The GGUF file that holds model and tokenizer, quantized or not; null for safetensors.
        dtype: Of the computation. bfloat16 is several times as fast on processors that have it.
        template: What makes a prompt of messages: `chat` for the model's own template, `plain` for their contents with
            a blank line between, or a Jinja template of your own.
        template_options: What the template is told besides, such as `{enable_thinking: false}`.
        device: `cpu`, `cuda`, ...; `auto` is the first GPU if there is one.
        device_map: How accelerate spreads the model over devices, such as `auto`; then `device` has no meaning.
    """

    model: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    template: str = "chat"
    template_options: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"
    device_map: str | None = None

    yaml_path: ClassVar[str] = "features.generator"

    def identity(self) -> dict[str, Any]:
        """The fields that make this model again, on any device, with the hash of the weights it has now.

        Raises:
            ConfigError: If the hash is not the one asked for.
        """
        return super().identity() | {"device": "auto", "device_map": None}

    def settings(self) -> dict[str, Any]:
        """The fields that prompts, responses and states depend on."""
        return {
            name: value for name, value in self._fields().items() if name not in ("package", "device", "device_map")
        }

    @cached_property
    def causal(self) -> Any:
        """The model with its language head, where it computes."""
        model = self.load_causal(self.device_map)
        return model if self.device_map else model.to(self._device)

    @cached_property
    def reader(self) -> Any:
        """The tokenizer."""
        return self.tokenizer()

    @cached_property
    def context(self) -> int | None:
        """How many tokens prompt and response may have together; None if there is no limit."""
        return getattr(self.causal.config.get_text_config(), "max_position_embeddings", None)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a prompt, all that stands before the response included.

        Args:
            messages: As chat templates take them.

        Raises:
            ConfigError: If the model has no chat template and none is given, or the template refuses the messages.
        """
        text = self._rendered(messages, add_generation_prompt=True)
        start = [self.reader.bos_token_id] if self._starts_texts and self.template == "plain" else []
        return start + self.tokens(text)

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, nothing put around it."""
        return self.reader(text, add_special_tokens=False, verbose=False)["input_ids"]

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special ones."""
        return self.reader.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def response_tokens(self, text: str, finish: str | None) -> list[int]:
        """The tokens of a response that exists as a text only, as if the model had given them.

        Args:
            text: Without special tokens.
            finish: `length` if it was cut; any other response is taken to have come to an end, and the token that
                ends a turn is its last.
        """
        end = [] if finish == "length" or self.turn_end is None else [self.turn_end]
        return self.tokens(text) + end

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Each token that ends a response: those that the model's files name, and what the template ends a turn with."""
        return self._named_ends | ({self.turn_end} if self.turn_end is not None else set())

    @cached_property
    def turn_end(self) -> int | None:
        """The token that ends a response: the first ending or special one that the template puts after it.

        Where the template puts none, as `plain` does, the tokenizer's own end of a text.
        """
        special = set(self.reader.all_special_ids)
        special |= {token for token, added in self.reader.added_tokens_decoder.items() if added.special}
        messages = [{"role": "user", "content": "query"}, {"role": "assistant", "content": _MARK}]
        after = self._rendered(messages, add_generation_prompt=False).rpartition(_MARK)[2]
        found = next((token for token in self.tokens(after) if token in special | self._named_ends), None)
        return self.reader.eos_token_id if found is None or self.template == "plain" else found

    @cached_property
    def _named_ends(self) -> frozenset[int]:
        sources = (self.causal.generation_config, self.causal.config.get_text_config(), self.reader)
        named = (getattr(source, "eos_token_id", None) for source in sources)
        return frozenset(
            token for each in named if each is not None for token in (each if isinstance(each, list) else [each])
        )

    @cached_property
    def _starts_texts(self) -> bool:
        """Whether the tokenizer puts a token before each text."""
        start = self.reader.bos_token_id
        return start is not None and self.reader("a")["input_ids"][:1] == [start]

    @property
    def _device(self) -> torch.device:
        name = ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device
        return torch.device(name)

    def _rendered(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str:
        from jinja2 import TemplateError

        template = TEMPLATES.get(self.template, self.template)
        where = f"{self.yaml_path}.template"
        if template is None and not self.reader.chat_template:
            cure = "`template: plain` for the messages' contents alone, or a Jinja template of your own"
            raise ConfigError(where, f"{self.model} has no chat template.", cure=cure)
        try:
            return self.reader.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.template_options,
            )
        except TemplateError as error:
            shown = ", ".join(message["role"] for message in messages)
            problem = f"the template refuses messages of {shown}: {error}."
            raise ConfigError(where, problem, cure="another template, or messages that it takes") from error
