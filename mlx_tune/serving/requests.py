"""From a request to what the engine is asked: everything is checked here, before it is queued."""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mlx_tune.errors import InputError, MlxTuneError
from mlx_tune.inference import Sampling, TokenBytes
from mlx_tune.inference.grammar import Grammar, GrammarCompiler
from mlx_tune.models.template import Renderer
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.serving.job import Ask
from mlx_tune.serving.schemas import Called, ChatRequest, CompletionRequest, Drawn, Message
from mlx_tune.serving.shelf import Choice
from mlx_tune.serving.tools import Offered, ToolWords

DEFAULT_CHAT_TOKENS, DEFAULT_COMPLETION_TOKENS = 1024, 16
_PARTS_OF_A_SEED = 2**64


class RequestError(MlxTuneError):
    """A request that cannot be carried out as it is.

    Attributes:
        status: As HTTP would say it.
        code: One word for programs.
        param: The field it is about.
    """

    def __init__(
        self, message: str, *, param: str | None, status: int = 400, code: str = "invalid_value"
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param = status, code, param


class Reader:
    """Knows what prompts become, and how long they may be."""

    def __init__(self, tokenizer: Tokenizer, *, vocabulary: int, context: int | None) -> None:
        """Take the base's tokenizer.

        Args:
            tokenizer: Of all models that are served.
            vocabulary: How many logits there are.
            context: Tokens that a model reads at most; None for no known limit.
        """
        self._renderer = Renderer()
        self._tokenizer = replace(tokenizer, renderer=self._renderer)
        self._vocabulary, self.context = vocabulary, context
        self._token_bytes = TokenBytes.of(tokenizer)
        self._grammars: GrammarCompiler | None = None

    def close(self) -> None:
        """End the process that renders conversations."""
        self._renderer.close()

    def chat(self, request: ChatRequest, choice: Choice) -> list[Ask]:
        """Return the answers that a conversation asks for.

        Raises:
            RequestError: It is too long, asks for what there is not, or the base's template does
                not take it.
        """
        offered = self._offered(request)
        turns = [_turn(message) for message in request.messages]
        try:
            prompt = self._tokenizer.prompt(turns, request.offered)
        except InputError as error:  # many refuse what they did not foresee, as two users in a row
            raise RequestError(str(error), param="messages") from error
        limit = request.max_tokens or request.max_completion_tokens
        return self._asks(
            request,
            choice,
            prompt,
            param="messages",
            max_tokens=self._room(prompt, limit, DEFAULT_CHAT_TOKENS, "messages"),
            alternatives=(request.top_logprobs or 0) if request.logprobs else None,
            response_format=request.response_format,
            offered=offered,
        )

    def _offered(self, request: ChatRequest) -> Offered | None:
        """Return the tools that may be called.

        Raises:
            RequestError: The conversation has tools and the base's template has none.
        """
        words = ToolWords.of(self._tokenizer)
        has_tools = request.tools or any(m.tool_calls or m.tool_call_id for m in request.messages)
        if has_tools and words is None:
            raise RequestError(
                "tools: this base model's chat template has none; leave them out",
                param="tools",
                code="not_supported",
            )
        if not request.offered or words is None:
            return None
        return Offered(words=words, tools=tuple(request.offered))

    def completion(self, request: CompletionRequest, choice: Choice) -> list[Ask]:
        """Return the answers that one or several texts ask for.

        Raises:
            RequestError: One is too long, or names a token that there is not.
        """
        found = []
        for prompt, text in self._prompts(request.prompt):
            limit = request.max_tokens
            found += self._asks(
                request,
                choice,
                prompt,
                param="prompt",
                max_tokens=self._room(prompt, limit, DEFAULT_COMPLETION_TOKENS, "prompt"),
                alternatives=request.logprobs,
                continues=True,
                echo=text if request.echo else None,
            )
        return found

    def _prompts(self, given: Any) -> list[tuple[list[int], str]]:
        """Return each prompt's tokens and its text."""
        if isinstance(given, str) or isinstance(given[0], int):
            given = [given]
        found = []
        for number, one in enumerate(given):
            tokens = self._tokenizer.encode_plain(one) if isinstance(one, str) else list(one)
            if not tokens:
                raise RequestError(f"prompt {number} is empty; say something", param="prompt")
            self._check_ids(tokens, "prompt")
            found.append((tokens, one if isinstance(one, str) else self._spelt(tokens)))
        return found

    def _spelt(self, tokens: Sequence[int]) -> str:
        raw = b"".join(self._token_bytes(token, first=i == 0) for i, token in enumerate(tokens))
        return raw.decode(errors="replace")

    def _check_ids(self, ids: Sequence[int], param: str) -> None:
        wrong = next((i for i in ids if not 0 <= i < self._vocabulary), None)
        if wrong is not None:
            raise RequestError(
                f"{param}: there is no token {wrong}; ids go from 0 to {self._vocabulary - 1}",
                param=param,
            )

    def _room(self, prompt: Sequence[int], asked: int | None, default: int, param: str) -> int:
        """Return how many tokens may be generated: as asked, else the default as far as it goes."""
        if not prompt:
            raise RequestError(f"{param}: nothing to read; say something", param=param)
        if self.context is None:
            return default if asked is None else asked
        left = self.context - len(prompt)
        if left < (1 if asked is None else asked):
            wanted = "" if asked is None else f" and {asked} are to be generated"
            raise RequestError(
                f"{param}: {len(prompt)} tokens{wanted}, and the model reads {self.context} in "
                "all; ask less at once",
                param=param,
                code="context_length_exceeded",
            )
        return min(default, left) if asked is None else asked

    def _asks(
        self,
        request: Drawn,
        choice: Choice,
        prompt: Sequence[int],
        *,
        param: str,
        max_tokens: int,
        alternatives: int | None,
        continues: bool = False,
        echo: str | None = None,
        response_format: Any = None,
        offered: Offered | None = None,
    ) -> list[Ask]:
        stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
        seed = secrets.randbits(63) if request.seed is None else request.seed
        return [
            Ask(
                choice=choice,
                prompt=tuple(prompt),
                max_tokens=max_tokens,
                sampling=self._sampling(request, seed + number),
                stops=tuple(stop),
                alternatives=alternatives,
                continues=continues,
                echo=echo,
                constraint=self._constraint(response_format),
                offered=offered,
            )
            for number in range(request.n or 1)
        ]

    def _sampling(self, request: Drawn, seed: int) -> Sampling:
        bias = {self._id(text): value for text, value in (request.logit_bias or {}).items()}
        self._check_ids(list(bias), "logit_bias")
        return Sampling(
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else request.top_p,
            top_k=request.top_k or 0,
            min_p=request.min_p or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            presence_penalty=request.presence_penalty or 0.0,
            logit_bias=bias,
            seed=seed % _PARTS_OF_A_SEED,
        )

    def _id(self, text: str) -> int:
        if not re.fullmatch("0|[1-9][0-9]{0,8}", text):  # "01" would be "1" a second time
            raise RequestError(f"logit_bias: {text!r} is no token id", param="logit_bias")
        return int(text)

    def _constraint(self, wanted: Any) -> Grammar | None:
        if wanted is None or wanted.type == "text":
            return None
        try:
            if self._grammars is None:
                self._grammars = GrammarCompiler(self._tokenizer)
            if wanted.type == "json_object":
                return self._grammars.json_object()
            return self._grammars.json_schema(wanted.json_schema.schema_)
        except MlxTuneError as error:
            raise RequestError(str(error), param="response_format") from error


def _turn(message: Message) -> dict[str, Any]:
    """Return a message as templates take it: arguments as values, not as text."""
    turn: dict[str, Any] = {
        "role": {"developer": "system"}.get(message.role, message.role),
        "content": message.text,
    }
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls is not None:
        turn["tool_calls"] = [_call(called) for called in message.tool_calls]
    return turn


def _call(called: Called) -> dict[str, Any]:
    try:
        arguments = json.loads(called.function.arguments)
    except ValueError as error:
        raise RequestError(
            f"tool_calls: the arguments of {called.id} are no JSON", param="messages"
        ) from error
    function = {"name": called.function.name, "arguments": arguments}
    return {"id": called.id, "type": "function", "function": function}
