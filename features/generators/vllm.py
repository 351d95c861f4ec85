"""vllm: samples responses with vLLM on GPUs; prompts, ends and numbers are as in the other generators."""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from console.progress import Report
from features.responses.generation import Generated
from features.responses.sampling_generator import SamplingGenerator
from features.texts.tasks import Response, Task
from language_models.sampling.seeds import request_seed
from registry import GENERATORS, ConfigError
from registry.ranges import FilePath

# Options that responses do not depend on.
_OF_A_RUN = ("num_responses", "depths", "layer_offset", "engine")
# Options of the engine for devices and batch sizes, which responses do not depend on.
_OF_A_MACHINE = (
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend",
    "gpu_memory_utilization", "swap_space", "cpu_offload_gb", "max_num_seqs", "max_num_batched_tokens",
    "enforce_eager", "disable_log_stats", "enable_prefix_caching", "block_size",
)  # fmt: skip
_LOG_PROBABILITIES = "raw_logprobs"


@GENERATORS.register("vllm")
@dataclass(frozen=True)
class VllmGenerator(SamplingGenerator):
    """Samples with vLLM, which must be installed separately; the transformers library reads hidden states afterwards.

    Each response is a request with its own seed, made from `seed`, its task's id and its number. vLLM reads the
    prompt that they share only once. vLLM draws other responses than the generator `transformers`.

    Note:
        Written to vLLM's documentation of 0.8 to 0.11 and tested with a replacement, not with vLLM itself.

    Args:
        package: An installed Python package that contains the model in its folder `model`; searched first.
        gguf: Not supported by this generator.
        dtype: Number format of the computation. `auto` is bfloat16 on a GPU with bfloat16 hardware, else float32.
        device: Device that reads hidden states: `cpu`, `cuda`, ...; `auto` is the first GPU if there is one.
        device_map: How accelerate distributes the model over devices to read hidden states, such as `auto`.
        batch_tokens: Tokens in a forward that reads hidden states, padding included.
        engine: Options of vLLM's `LLM`, such as `{tensor_parallel_size: 2, gpu_memory_utilization: 0.8}`.
    """

    model: FilePath = "Qwen/Qwen2.5-7B-Instruct"
    engine: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.gguf:
            raise ValueError("GGUF files work only with the generator `transformers`")
        if self.engine.get("logprobs_mode", _LOG_PROBABILITIES) != _LOG_PROBABILITIES:
            raise ValueError(
                f"engine.logprobs_mode must be {_LOG_PROBABILITIES}: those of the model's own distribution"
            )

    def settings(self) -> dict[str, Any]:
        """All settings that a response depends on."""
        fields = super().settings().items()
        engine = {name: value for name, value in self.engine.items() if name not in _OF_A_MACHINE}
        described = {name: value for name, value in fields if name not in _OF_A_RUN}
        return {"name": "vllm", **described, **({"engine": engine} if engine else {})}

    def generate(self, tasks: Sequence[Task], numbers: range, report: Report | None = None) -> Iterator[Generated]:
        """Yield the responses with these numbers to each task.

        Args:
            tasks: The tasks; their requests go to vLLM together.
            numbers: The numbers of the responses, counted from 0.
            report: Called once, when all responses are done.

        Raises:
            ConfigError: If vLLM is missing, or the model or its template cannot be used.
        """
        engine = self._engine
        prompts = [self.chat.prompt(task.messages) for task in tasks]
        rooms = [self.room(len(prompt)) for prompt in prompts]
        asked = [(at, number) for at, room in enumerate(rooms) if room for number in numbers]
        answers = engine.generate(
            [{"prompt_token_ids": prompts[at]} for at, _ in asked],
            [self._parameters(tasks[at], number, rooms[at]) for at, number in asked],
            use_tqdm=False,
        )
        found: list[list[Response]] = [[] for _ in tasks]
        for (at, number), answer in zip(asked, answers, strict=True):
            found[at].append(self._response(number, answer.outputs[0]))
        if report:
            report(len(asked), sum(len(one.tokens or ()) for each in found for one in each))
        for task, prompt, responses in zip(tasks, prompts, found, strict=True):
            refusal = None if responses else self.refusal(len(prompt))
            yield Generated(task, responses, prompt_tokens=len(prompt), refusal=refusal)

    def _parameters(self, task: Task, number: int, room: int) -> Any:
        from vllm import SamplingParams  # type: ignore[import-not-found]

        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k or -1,
            max_tokens=room,
            stop=self.stop or None,
            stop_token_ids=sorted(self._ends),
            seed=request_seed(self.seed, task.query_id, number),
            logprobs=0,
        )

    def _response(self, number: int, output: Any) -> Response:
        tokens = list(output.token_ids)
        return Response(
            str(number),
            self.text_of(tokens),
            tokens=tokens,
            log_probability=output.cumulative_logprob,
            finish=output.finish_reason,
        )

    @cached_property
    def context(self) -> int | None:
        """The maximum number of tokens of prompt and response together; None if there is no limit."""
        limits = (super().context, self.engine.get("max_model_len"))
        return min((limit for limit in limits if limit is not None), default=None)

    @cached_property
    def _engine(self) -> Any:
        if importlib.util.find_spec("vllm") is None:
            cure = "pip install vllm on a machine with a GPU, or use the generator `transformers`"
            raise ConfigError(f"{self.yaml_path}.name", "the package vllm is not installed.", cure=cure)
        from vllm import LLM  # type: ignore[import-not-found]

        assert self.checked_hash
        self._announce_dtype()
        folder = str(self.folder)
        options = {
            "dtype": self.resolved_dtype,
            "seed": self.seed,
            "enable_prefix_caching": True,
            "trust_remote_code": False,
        }
        return LLM(model=folder, tokenizer=folder, **{**options, **self.engine})
