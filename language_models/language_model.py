"""LanguageModel: a pretrained causal model that reads chats, with a description that rebuilds it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, TypeVar

import torch
from annotated_types import Interval

from console.progress import Report
from language_models.backbone import Backbone
from language_models.chat_template import ChatTemplate
from language_models.conversation import Conversation, States
from language_models.precision import device_named
from language_models.states.block_states import layers_of, num_layers_of
from registry import ConfigError
from registry.ranges import Depths, FilePath, Rows, Text

M = TypeVar("M", bound="LanguageModel")

# Fields that neither responses nor states depend on.
_ELSEWHERE = ("package", "device", "device_map", "batch_tokens")


@dataclass(frozen=True)
class LanguageModel(Backbone):
    """A causal model of the transformers library, read from safetensors or GGUF without custom code.

    Args:
        dtype: Number format of the computation. `auto` is bfloat16 on a GPU or CPU with bfloat16 hardware, where it is
            several times as fast, else float32.
        template: How messages become a prompt: `chat` for the model's own chat template, `plain` for the messages'
            contents separated by blank lines, or your own Jinja template.
        template_options: Further variables for the template, such as `{enable_thinking: false}`.
        device: `cpu`, `cuda`, ...; `auto` is the first GPU if there is one, else the CPU.
        device_map: How accelerate distributes the model over devices, such as `auto`; replaces `device`.
        depths: Depths of the hidden states to keep, as fractions of all layers, in (0, 1].
        layer_offset: Added to the layer of each depth; -1 is one block lower.
        batch_tokens: Tokens in a forward, padding included; larger batches are faster on a GPU.
    """

    model: FilePath = "HuggingFaceTB/SmolLM2-135M-Instruct"
    template: Text = "chat"
    template_options: dict[str, Any] = field(default_factory=dict)
    device: Text = "auto"
    device_map: Text | None = None
    depths: Depths = field(default_factory=list)
    layer_offset: Annotated[int, Interval(ge=-1000, le=1000)] = 0
    batch_tokens: Rows = 4096

    yaml_path: ClassVar[str] = "features.generator"
    writes: ClassVar[bool] = False
    _lender: ClassVar["LanguageModel | None"] = None

    def identity(self) -> dict[str, Any]:
        """The fields that rebuild this model on any device, with the hash of its present weights.

        Raises:
            ConfigError: If the hash is not `sha256`.
        """
        described = super().identity() | {"device": "auto", "device_map": None, "batch_tokens": 4096}
        return {each.name: described[each.name] for each in fields(LanguageModel) if each.name in described}

    def settings(self) -> dict[str, Any]:
        """The fields that prompts and states depend on."""
        return {name: value for name, value in self._fields().items() if name not in _ELSEWHERE}

    def twin(self: M, **changed: Any) -> M:
        """A copy with changed fields that shares weights and tokenizer with this model.

        Args:
            changed: New values of fields; neither weights nor prompts may depend on these fields.
        """
        other = replace(self, **changed)
        vars(other)["_lender"] = self
        return other

    @property
    def compute_device(self) -> torch.device:
        """The device that the model runs on; the first one if it is distributed over several."""
        return device_named("auto" if self.device_map else self.device)

    def prepare(self) -> None:
        """Load model and tokenizer now instead of at their first use."""
        _ = self.loaded, self.chat

    def states(self, conversations: Sequence[Conversation], report: Report | None = None) -> Iterator[States]:
        """Hidden states of prompts and responses at `depths`, in the order of the conversations.

        Args:
            conversations: Prompts and responses as tokens; they are batched together.
            report: Called after each batch.
        """
        return self._hidden_states.read(conversations, report)

    def refusal(self, prompt_tokens: int) -> str | None:
        """Why a prompt with this number of tokens gets no response; None if it gets one."""
        if prompt_tokens == 0:
            return "empty prompt"
        return "prompt too long" if self.context is not None and prompt_tokens >= self.context else None

    @cached_property
    def loaded(self) -> Any:
        """The model on its device, with its language head if it generates."""
        if self._lender:
            return self._lender.loaded
        model = (self.load_causal if self.writes else self.load)(self.device_map)
        if self.device_map:
            return model
        return model.to(self.compute_device)

    @cached_property
    def chat(self) -> ChatTemplate:
        """The converter between messages, texts and tokens."""
        if self._lender:
            return self._lender.chat
        named = (getattr(config, "eos_token_id", None) for config in self._configs)
        ends = [token for each in named if each is not None for token in (each if isinstance(each, list) else [each])]
        path = f"{self.yaml_path}.template"
        return ChatTemplate(self.tokenizer(), self.template, self.template_options, ends, path)

    @cached_property
    def context(self) -> int | None:
        """How many tokens prompt and response may have together; None if there is no limit."""
        return getattr(self._configs[0], "max_position_embeddings", None)

    @cached_property
    def layers(self) -> list[int]:
        """The blocks, counted from 1, that `depths` stand for.

        Raises:
            ConfigError: If a depth has no block.
        """
        try:
            return layers_of(self.depths, num_layers_of(self.loaded), self.layer_offset)
        except ValueError as error:
            raise ConfigError(f"{self.yaml_path}.depths", f"{error}.", cure="set depths above 0, at most 1") from error

    @cached_property
    def _configs(self) -> tuple[Any, Any]:
        """The model's config and its generation config, read without the weights if possible."""
        if self.gguf:
            return self.loaded.config.get_text_config(), getattr(self.loaded, "generation_config", None)
        from transformers import AutoConfig, GenerationConfig

        with self._loading("its configuration"):
            config = AutoConfig.from_pretrained(self.folder, trust_remote_code=False).get_text_config()
        try:
            return config, GenerationConfig.from_pretrained(self.folder)
        except OSError:
            return config, None

    @cached_property
    def _hidden_states(self) -> Any:
        from language_models.states.hidden_states import HiddenStates  # here, since it loads transformers

        return HiddenStates(self.loaded, self.layers, self.batch_tokens)
