"""From a request to what the engine generates: everything is checked here, before it is queued."""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mlx_tune.data.calls import ToolCall
from mlx_tune.data.rows import Message
from mlx_tune.errors import InputError, MlxTuneError
from mlx_tune.inference import Sampling, TokenBytes
from mlx_tune.inference.grammar import Grammar, GrammarCompiler
from mlx_tune.models.template import Renderer
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.serving.errors import ApiError
from mlx_tune.serving.jobs import GenerationRequest
from mlx_tune.serving.registry import RegisteredModel
from mlx_tune.serving.schemas import (
    BaseRequest,
    ChatRequest,
    CompletionRequest,
    RequestMessage,
    RequestToolCall,
    ResponseFormat,
)
from mlx_tune.serving.tools import ToolCallFormat, ToolSet

DEFAULT_CHAT_TOKENS, DEFAULT_COMPLETION_TOKENS = 1024, 16
_SEED_RANGE = 2**64


class RequestParser:
    """Turns checked requests into prompts of token ids, and checks what depends on the base.

    Args:
        tokenizer: The base's, of all models that are served.
        vocabulary: How many logits there are.
        context: Tokens that a model reads at most; None for no known limit.
    """

    def __init__(self, tokenizer: Tokenizer, *, vocabulary: int, context: int | None) -> None:
        self._renderer = Renderer()
        self._tokenizer = replace(tokenizer, renderer=self._renderer)
        self._vocabulary, self.context = vocabulary, context
        self._token_bytes = TokenBytes.of(tokenizer)
        self._grammars: GrammarCompiler | None = None

    def close(self) -> None:
        """End the process that renders conversations."""
        self._renderer.close()

    def chat(self, request: ChatRequest, model: RegisteredModel) -> list[GenerationRequest]:
        """Return the answers that a conversation asks for.

        Raises:
            ApiError: It is too long, asks for what there is not, or the base's template does
                not take it.
        """
        tools = self._tools(request)
        turns = [_template_message(message) for message in request.messages]
        try:
            prompt = self._tokenizer.prompt(turns, request.callable_tools)
        except InputError as error:  # many refuse, for example, two user messages in a row
            raise ApiError(str(error), param="messages") from error
        limit = request.max_tokens or request.max_completion_tokens
        first = GenerationRequest(
            model=model,
            prompt=tuple(prompt),
            max_tokens=self._room(prompt, limit, DEFAULT_CHAT_TOKENS, "messages"),
            top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            grammar=self._grammar(request.response_format),
            tools=tools,
        )
        return self._copies(request, first)

    def _tools(self, request: ChatRequest) -> ToolSet | None:
        """Return the tools that may be called; refuse any where the base's template has none."""
        form = ToolCallFormat.of(self._tokenizer)
        has_tools = request.tools or any(m.tool_calls or m.tool_call_id for m in request.messages)
        if has_tools and form is None:
            message = "tools: this base model's chat template has none; leave them out"
            raise ApiError(message, param="tools", code="not_supported")
        if not request.callable_tools or form is None:
            return None
        return ToolSet(format=form, tools=tuple(request.callable_tools))

    def completion(
        self, request: CompletionRequest, model: RegisteredModel
    ) -> list[GenerationRequest]:
        """Return the answers that one or several texts ask for.

        Raises:
            ApiError: One is too long, or names a token that there is not.
        """
        found = []
        for prompt, text in self._prompts(request.prompt):
            limit = self._room(prompt, request.max_tokens, DEFAULT_COMPLETION_TOKENS, "prompt")
            first = GenerationRequest(
                model=model,
                prompt=tuple(prompt),
                max_tokens=limit,
                top_logprobs=request.logprobs,
                continues=True,
                echo=text if request.echo else None,
            )
            found += self._copies(request, first)
        return found

    def _prompts(self, given: Any) -> list[tuple[list[int], str]]:
        """Return each prompt's tokens and its text."""
        if isinstance(given, str) or isinstance(given[0], int):
            given = [given]
        found = []
        for number, one in enumerate(given):
            tokens = self._tokenizer.encode_plain(one) if isinstance(one, str) else list(one)
            if not tokens:
                raise ApiError(f"prompt {number} is empty; say something", param="prompt")
            self._check_ids(tokens, "prompt")
            found.append((tokens, one if isinstance(one, str) else self._text(tokens)))
        return found

    def _text(self, tokens: Sequence[int]) -> str:
        raw = b"".join(self._token_bytes(token, first=i == 0) for i, token in enumerate(tokens))
        return raw.decode(errors="replace")

    def _check_ids(self, ids: Sequence[int], param: str) -> None:
        wrong = next((i for i in ids if not 0 <= i < self._vocabulary), None)
        if wrong is not None:
            last = self._vocabulary - 1
            message = f"{param}: there is no token {wrong}; ids go from 0 to {last}"
            raise ApiError(message, param=param)

    def _room(self, prompt: Sequence[int], asked: int | None, default: int, param: str) -> int:
        """Return how many tokens to generate: as requested, else the default if it fits."""
        if not prompt:
            raise ApiError(f"{param}: nothing to read; say something", param=param)
        if self.context is None:
            return default if asked is None else asked
        left = self.context - len(prompt)
        if left < (1 if asked is None else asked):
            wanted = "" if asked is None else f" and {asked} are to be generated"
            raise ApiError(
                f"{param}: {len(prompt)} tokens{wanted}, and the model reads {self.context} in "
                "all; ask less at once",
                param=param,
                code="context_length_exceeded",
            )
        return min(default, left) if asked is None else asked

    def _copies(self, request: BaseRequest, first: GenerationRequest) -> list[GenerationRequest]:
        """Return the answers to one prompt: as many as are asked for, each with its own seed."""
        bias = {_token_id(text): value for text, value in (request.logit_bias or {}).items()}
        self._check_ids(list(bias), "logit_bias")
        stops = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
        seed = secrets.randbits(63) if request.seed is None else request.seed
        sampling = Sampling(
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else request.top_p,
            top_k=request.top_k or 0,
            min_p=request.min_p or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            presence_penalty=request.presence_penalty or 0.0,
            logit_bias=bias,
        )
        first = replace(first, stops=stops)
        return [
            replace(
                first,
                sampling=replace(sampling, seed=(seed + number) % _SEED_RANGE),
                is_repeat=number > 0,
            )
            for number in range(request.n or 1)
        ]

    def _grammar(self, wanted: ResponseFormat | None) -> Grammar | None:
        if wanted is None or wanted.type == "text":
            return None
        try:
            if self._grammars is None:
                self._grammars = GrammarCompiler(self._tokenizer)
            if wanted.json_schema is None:
                return self._grammars.json_object()
            return self._grammars.json_schema(wanted.json_schema.schema_)
        except MlxTuneError as error:
            raise ApiError(str(error), param="response_format") from error


def _template_message(message: RequestMessage) -> dict[str, Any]:
    """Return a message as templates take it: as a row of the same conversation is trained on."""
    return Message(
        role="system" if message.role == "developer" else message.role,
        content=message.text,
        tool_calls=tuple(map(_tool_call, message.tool_calls or ())),
        tool_call_id=message.tool_call_id or "",
    ).for_template()


def _tool_call(call: RequestToolCall) -> ToolCall:
    arguments = call.function.arguments or "{}"  # which some programs write for none
    try:
        json.loads(arguments)
    except ValueError as error:
        message = f"tool_calls: the arguments of {call.id} are no JSON"
        raise ApiError(message, param="messages") from error
    return ToolCall(id=call.id, name=call.function.name, arguments=arguments)


def _token_id(text: str) -> int:
    if not re.fullmatch("0|[1-9][0-9]{0,8}", text):  # "01" would be "1" a second time
        raise ApiError(f"logit_bias: {text!r} is no token id", param="logit_bias")
    return int(text)
