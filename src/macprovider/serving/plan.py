"""A checked request as work for the engine: prompts in token ids, limits, and what each answer is held to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from macprovider.codec import Codec, TemplateError
from macprovider.engines.base import EngineFacts, GenerationRequest
from macprovider.serving.answer import Answer
from macprovider.serving.errors import ApiError, invalid, shown
from macprovider.serving.fields import Document, required
from macprovider.serving.messages import parse_messages
from macprovider.serving.parameters import Parameters, need, parse_parameters
from macprovider.serving.tools import ToolUse, instructions, parse_tools

Api = Literal["chat", "completion"]
COMPLETION_TOKENS = 16
"""Answer length of `/v1/completions` where the request names none, as in OpenAI's reference; a chat's is what the context leaves."""
MAX_PROMPTS = 128


@dataclass(frozen=True)
class Draft:
    """A request whose fields are right; what is missing is the model's own part, encoding."""

    api: Api
    parameters: Parameters
    messages: Sequence[Document] = ()
    prompts: Sequence[str | list[int]] = ()
    tools: ToolUse | None = None


@dataclass(frozen=True)
class Plan:
    """prompts: one tuple of token ids for each prompt; every prompt gets `n` answers, those of the first prompt first."""

    api: Api
    parameters: Parameters
    prompts: tuple[tuple[int, ...], ...]
    stop_ids: frozenset[int]
    context: int
    tools: ToolUse | None = None

    @property
    def choices(self) -> int:
        return len(self.prompts) * self.parameters.n

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    def generation(self, index: int) -> GenerationRequest:
        """What the engine is asked for answer `index`; a seed differs by the answer's number, so that answers do."""
        prompt = self.prompts[index // self.parameters.n]
        default = COMPLETION_TOKENS if self.api == "completion" else self.context
        sampling = self.parameters.sampling
        if sampling.seed is not None:
            sampling = replace(sampling, seed=sampling.seed + index % self.parameters.n)
        return GenerationRequest(
            prompt=prompt,
            max_tokens=min(self.parameters.max_tokens or default, self.context - len(prompt)),
            sampling=sampling,
            stop_ids=self.stop_ids,
            top_logprobs=self.parameters.top_logprobs,
            json_schema=self.tools.schema if self.tools and self.tools.schema else self.parameters.json_schema,
        )

    def answer(self, index: int, codec: Codec) -> Answer:
        """The state of answer `index`."""
        return Answer(index, codec, self.parameters.stops, self.tools, self.parameters.top_logprobs is not None)


def draft_chat(document: Document, facts: EngineFacts, codec: Codec) -> Draft:
    """Check a chat request. Raises ApiError 400, in the order of spec 3.1: fields, types and roles, then tools."""
    messages = parse_messages(document)
    parameters = parse_parameters(document, facts.features, chat=True, vocabulary=codec.vocabulary)
    if not codec.has_template:
        raise invalid("messages: this model has no chat template; use /v1/completions with a prompt.", "messages")
    tools = parse_tools(document)
    if tools is not None and tools.schema is not None:
        need("json_schema", facts.features, "tool_choice")
    if tools is not None and parameters.json_schema is not None:
        raise invalid("response_format: found together with tools; send one of them.", "response_format")
    return Draft("chat", parameters, messages=messages, tools=tools)


def draft_completion(document: Document, facts: EngineFacts, codec: Codec) -> Draft:
    """Check a completion request. Raises ApiError 400."""
    prompts = _prompts(required(document, "prompt"), codec.vocabulary)
    return Draft("completion", parse_parameters(document, facts.features, chat=False, vocabulary=codec.vocabulary), prompts=prompts)


def plan(draft: Draft, facts: EngineFacts, codec: Codec) -> Plan:
    """Encode the prompts. Raises ApiError 400 for messages that the template refuses, 413 for a prompt that leaves no room."""
    if draft.api == "chat":
        encoded = [_encode_chat(draft, codec)]
    else:
        encoded = [codec.encode(prompt, special=True) if isinstance(prompt, str) else prompt for prompt in draft.prompts]
    for index, ids in enumerate(encoded):
        if not ids:
            raise invalid(f"prompt: found no tokens in prompt {index}; send at least one character.", "prompt")
        if len(ids) >= facts.context:
            field = "messages" if draft.api == "chat" else "prompt"
            message = (
                f"{field}: found {len(ids)} tokens; the context of this server holds {facts.context}, prompt and answer together, "
                f"so that a prompt has at most {facts.context - 1}."
            )
            raise ApiError(413, "context_length_exceeded", message, field)
    prompts = tuple(tuple(ids) for ids in encoded)
    return Plan(draft.api, draft.parameters, prompts, codec.stop_ids, facts.context, draft.tools)


def _encode_chat(draft: Draft, codec: Codec) -> list[int]:
    messages = list(draft.messages)
    tools = draft.tools.tools if draft.tools else ()
    if tools and not codec.template_shows_tools:
        messages = _with_instructions(messages, instructions(tools))
    try:
        return codec.encode(codec.render(messages, tools))
    except TemplateError as error:
        raise invalid(f"messages: {error}.", "messages") from error


def _with_instructions(messages: list[Document], text: str) -> list[Document]:
    """The conversation with the tools described in its system message, and earlier calls written out as text."""
    plain = [_calls_as_text(message) for message in messages]
    if plain[0]["role"] == "system":
        return [{**plain[0], "content": f"{plain[0]['content']}\n\n{text}"}, *plain[1:]]
    return [{"role": "system", "content": text}, *plain]


def _calls_as_text(message: Document) -> Document:
    import orjson

    calls = [{"name": call["function"]["name"], "arguments": call["function"]["arguments"]} for call in message.get("tool_calls", [])]
    lines = [f"<tool_call>{orjson.dumps(call).decode()}</tool_call>" for call in calls]
    return {**message, "content": "\n".join(filter(None, [message["content"], *lines]))} if lines else message


def _prompts(value: object, vocabulary: int) -> list[str | list[int]]:
    """One text, several, one list of token ids, or several."""
    if isinstance(value, str):
        return [value]
    allowed = "text, a list of texts, a list of token ids, or a list of such lists"
    if not isinstance(value, list) or not value:
        raise invalid(f"prompt: found {shown(value)}; allowed: {allowed}.", "prompt")
    prompts: list[str | list[int]] = [value] if _are_ids(value) else value
    if len(prompts) > MAX_PROMPTS:
        raise invalid(f"prompt: found {len(prompts)} prompts; allowed: at most {MAX_PROMPTS} in one request.", "prompt")
    for item in prompts:
        if not isinstance(item, str) and not (isinstance(item, list) and _are_ids(item)):
            raise invalid(f"prompt: found {shown(item)} in the list; allowed: {allowed}.", "prompt")
        if isinstance(item, list) and any(not 0 <= index < vocabulary for index in item):
            raise invalid(f"prompt: found a token id outside 0 to {vocabulary - 1}.", "prompt")
    return prompts


def _are_ids(value: Sequence[object]) -> bool:
    return bool(value) and all(isinstance(item, int) and not isinstance(item, bool) for item in value)
