"""Call notations: the same function calls as chat templates, servers and result files write them."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from features.verification.call_forms.call import Call

Calls = Sequence[Call]


def _python(call: Call, name: str | None = None) -> str:
    return f"{name or call.name}({', '.join(f'{key}={value!r}' for key, value in call.arguments.items())})"


def _as_dict(call: Call, arguments: str = "arguments", **more: Any) -> dict[str, Any]:
    return {"name": call.name, arguments: dict(call.arguments), **more}


def _dump(call: Call) -> str:
    return json.dumps(dict(call.arguments), ensure_ascii=False)


def _underscored(calls: Calls) -> list[Call]:
    return [Call(call.name.replace(".", "_"), call.arguments) for call in calls]


def _raw(value: Any) -> str:
    """A value as templates write it between tags: a text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tagged(calls: Calls, block: str, pair: str) -> str:
    def written(call: Call) -> str:
        pairs = "\n".join(pair.format(key=key, value=_raw(value)) for key, value in call.arguments.items())
        return block.replace("NAME", call.name).replace("PAIRS", pairs)

    return "\n".join(map(written, calls))


def _before_json(calls: Calls, written: str, between: str = "\n", around: str = "CALLS") -> str:
    filled = (written.replace("NAME", call.name).replace("JSON", _dump(call)) for call in calls)
    return around.replace("CALLS", between.join(filled))


def _gemma(value: Any, mark: str) -> str:
    if isinstance(value, str):
        return f"{mark}{value}{mark}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_gemma(each, mark)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_gemma(each, mark) for each in value) + "]"
    return json.dumps(value)


NOTATIONS: dict[str, Callable[[Calls], str]] = {
    "JSON list": lambda calls: json.dumps([_as_dict(call) for call in calls]),
    "JSON list, parameters": lambda calls: json.dumps([_as_dict(call, "parameters") for call in calls]),
    "Python list": lambda calls: f"[{', '.join(map(_python, calls))}]",
    "Python literal": lambda calls: str([_as_dict(call) for call in calls]),
    "Python, underscores": lambda calls: f"[{', '.join(map(_python, _underscored(calls)))}]",
    "Python, one object": lambda calls: f"[{', '.join(f'{each.name}({dict(each.arguments)})' for each in calls)}]",
    "BFCL results": lambda calls: json.dumps([{call.name: _dump(call)} for call in calls]),
    "BFCL results, underscores": lambda calls: json.dumps([{call.name: _dump(call)} for call in _underscored(calls)]),
    "BFCL results, objects": lambda calls: json.dumps([{call.name: dict(call.arguments)} for call in calls]),
    "BFCL result line": lambda calls: json.dumps({"id": "0", "result": [{call.name: _dump(call)} for call in calls]}),
    "OpenAI chat": lambda calls: json.dumps(
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": call.name, "arguments": _dump(call)}}
                for call in _underscored(calls)
            ],
        }
    ),
    "OpenAI responses": lambda calls: json.dumps(
        [{"type": "function_call", "call_id": "c", "name": call.name, "arguments": _dump(call)} for call in calls]
    ),
    "Anthropic": lambda calls: json.dumps([_as_dict(call, "input", type="tool_use", id="t") for call in calls]),
    "LangChain": lambda calls: json.dumps([_as_dict(call, "args", id="1", type="tool_call") for call in calls]),
    "Gemini": lambda calls: json.dumps({"parts": [{"functionCall": _as_dict(call, "args")} for call in calls]}),
    "Bedrock": lambda calls: json.dumps([{"toolUse": _as_dict(call, "input", toolUseId="1")} for call in calls]),
    "Cohere": lambda calls: json.dumps(
        [{"tool_name": call.name, "parameters": dict(call.arguments)} for call in calls]
    ),
    "Hermes, Qwen": lambda calls: "\n".join(
        f"<tool_call>\n{json.dumps(_as_dict(call), ensure_ascii=False)}\n</tool_call>" for call in calls
    ),
    "Llama 3": lambda calls: "<|python_tag|>" + "; ".join(json.dumps(_as_dict(call, "parameters")) for call in calls),
    "Llama 3, method": lambda calls: "<|python_tag|>" + "; ".join(_python(call, f"{call.name}.call") for call in calls),
    "Llama 3, tags": lambda calls: _before_json(calls, "<function=NAME>JSON</function>"),
    "Llama 4": lambda calls: f"<|python_start|>[{', '.join(map(_python, calls))}]<|python_end|>",
    "Mistral": lambda calls: f"[TOOL_CALLS] {json.dumps([_as_dict(call) for call in calls])}",
    "Mistral, arguments": lambda calls: _before_json(calls, "[TOOL_CALLS]NAME[ARGS]JSON", ""),
    "Mistral, call ids": lambda calls: _before_json(calls, "[TOOL_CALLS]NAME[CALL_ID]D681PevKs[ARGS]JSON", ""),
    "DeepSeek V3": lambda calls: _before_json(
        calls,
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>NAME\n```json\nJSON\n```<｜tool▁call▁end｜>",
        around="<｜tool▁calls▁begin｜>CALLS<｜tool▁calls▁end｜>",
    ),
    "DeepSeek V3.1": lambda calls: _before_json(
        calls,
        "<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>JSON<｜tool▁call▁end｜>",
        "",
        "<｜tool▁calls▁begin｜>CALLS<｜tool▁calls▁end｜>",
    ),
    "Kimi K2": lambda calls: _before_json(
        calls,
        "<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>JSON<|tool_call_end|>",
        "",
        "<|tool_calls_section_begin|>CALLS<|tool_calls_section_end|>",
    ),
    "Harmony": lambda calls: _before_json(
        calls, "<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>JSON<|call|>"
    ),
    "Harmony, recipient first": lambda calls: _before_json(
        calls, "<|start|>assistant to=functions.NAME<|channel|>commentary json<|message|>JSON<|call|>"
    ),
    "Functionary": lambda calls: _before_json(calls, ">>>NAME\nJSON"),
    "Qwen-Agent": lambda calls: _before_json(calls, "✿FUNCTION✿: NAME\n✿ARGS✿: JSON"),
    "ReAct": lambda calls: _before_json(calls, "Thought: I need it.\nAction: NAME\nAction Input: JSON"),
    "Qwen3-Coder": lambda calls: _tagged(
        calls,
        "<tool_call>\n<function=NAME>\nPAIRS\n</function>\n</tool_call>",
        "<parameter={key}>\n{value}\n</parameter>",
    ),
    "Anthropic, tags": lambda calls: _tagged(
        calls,
        '<function_calls>\n<invoke name="NAME">\nPAIRS\n</invoke>\n</function_calls>',
        '<parameter name="{key}">{value}</parameter>',
    ),
    "MiniMax": lambda calls: _tagged(
        calls,
        '<minimax:tool_call>\n<invoke name="NAME">\nPAIRS\n</invoke>\n</minimax:tool_call>',
        '<parameter name="{key}">{value}</parameter>',
    ),
    "GLM": lambda calls: _tagged(
        calls, "<tool_call>NAME\nPAIRS\n</tool_call>", "<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>"
    ),
    "FunctionGemma": lambda calls: "".join(
        f"<start_function_call>call:{call.name}{_gemma(call.arguments, '<escape>')}<end_function_call>"
        for call in calls
    ),
    "Gemini, code": lambda calls: (
        "```tool_code\n"
        + "\n".join(f"print({_python(call, f'default_api.{call.name}')})" for call in _underscored(calls))
        + "\n```"
    ),
    "code": lambda calls: "\n".join(f"result_{number} = {_python(call)}  # next" for number, call in enumerate(calls)),
}
"""Each notation by name: a function that writes calls in it."""
