"""What requests may hold and what replies hold, in OpenAI's shapes.

A request's field that is not here is refused, unless it changes no answer (`harmless`). Replies are
built as plain values of these shapes; the models document them.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, ClassVar, Literal

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mlx_tune.serving import harmless
from mlx_tune.serving.guard import PARSED_BODY
from mlx_tune.serving.harmless import Harmless, without
from mlx_tune.serving.tools import TOOL_NAME

ModelName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=200,
        description="`head` (the session in use), `base`, or a session as GET /v1/models lists it.",
        examples=["head"],
    ),
]


def _or_null(schema: dict[str, Any]) -> None:
    """Let the document say that null is as good as none."""
    own = dict(schema)
    schema.clear()
    schema["anyOf"] = [own, {"type": "null"}]


MOST_ANSWERS, MOST_STOPS, MOST_PROMPTS, MOST_TOP, MOST_TOOLS = 8, 16, 64, 20, 64
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


def _tell_harmless(schema: dict[str, Any], model: type[Any]) -> None:
    """Let the document of the API say what is taken and dropped."""
    schema["additionalProperties"] = {"type": "null"}
    for name, values in model.harmless.items():
        dropped = {"description": "Changes nothing."} | ({} if values is None else {"enum": values})
        known = schema["properties"].get(name)
        schema["properties"][name] = {"anyOf": [known, dropped]} if known else dropped


class StrictModel(BaseModel):
    """Takes the fields it names, of the types it names, and finite numbers; null is no value.

    Attributes:
        harmless: The fields that are taken besides, and dropped.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, json_schema_extra=_tell_harmless
    )
    harmless: ClassVar[Harmless] = {}

    @model_validator(mode="before")
    @classmethod
    def _drop_harmless(cls, fields: Any) -> Any:
        return without(fields, cls.harmless) if isinstance(fields, dict) else fields


class StreamOptions(StrictModel):
    """How a stream ends."""

    harmless: ClassVar[Harmless] = harmless.STREAM_OPTIONS

    include_usage: bool | None = Field(None, description="End with a chunk that counts the tokens.")


class BaseRequest(StrictModel):
    """What both kinds of requests say of how an answer is sampled."""

    harmless: ClassVar[Harmless] = harmless.REQUEST

    model: ModelName = Field("head", json_schema_extra=_or_null)
    temperature: float | None = Field(None, ge=0, le=2, description="0, the default: no chance.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=10_000_000, description="0 for all.")
    min_p: float | None = Field(None, ge=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, max_length=1000, description="Added to tokens' logits, by id."
    )
    seed: int | None = Field(
        None, ge=-(2**63), lt=2**63, description="The same seed draws the same answer."
    )
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS, description="How many answers.")
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = Field(
        None, description="Texts that end the answer and are not part of it."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> "BaseRequest":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream: true")
        return self


class TextPart(StrictModel):
    """A part of a message; only texts are read."""

    harmless: ClassVar[Harmless] = harmless.PART

    type: Literal["text"]
    text: str


Name = Annotated[str, Field(pattern=f"^{TOOL_NAME}$")]


class FunctionCall(StrictModel):
    """What was called, with JSON for its arguments; an empty text is an empty object."""

    name: Name
    arguments: str


class RequestToolCall(StrictModel):
    """A call that the model made."""

    harmless: ClassVar[Harmless] = harmless.TOOL_CALL

    id: str = Field(min_length=1, max_length=64)
    type: Literal["function"]
    function: FunctionCall


class RequestMessage(StrictModel):
    """One turn of a conversation."""

    harmless: ClassVar[Harmless] = harmless.MESSAGE

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(min_length=1)] | None = None
    tool_calls: Annotated[list[RequestToolCall], Field(min_length=1)] | None = None
    tool_call_id: str | None = Field(None, min_length=1, max_length=64)

    @model_validator(mode="after")
    def _each_role_says_its_own(self) -> "RequestMessage":
        if self.tool_calls is not None and self.role != "assistant":
            raise ValueError("tool_calls are made by the role assistant")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("tool_call_id goes with the role tool, and the role tool with it")
        if self.content is None and self.tool_calls is None:
            raise ValueError("content is missing")
        return self

    @property
    def text(self) -> str:
        """Its parts, one after another."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)


class FunctionTool(StrictModel):
    """What a model may call; its arguments need not match the schema (`strict`)."""

    name: Name
    description: str | None = Field(None, max_length=10_000)
    parameters: dict[str, Any] | None = None
    strict: Literal[False] | None = None


class Tool(StrictModel):
    """A tool that the model may call."""

    harmless: ClassVar[Harmless] = harmless.TOOL

    type: Literal["function"]
    function: FunctionTool


class JsonSchema(StrictModel):
    """A schema that the answer must match."""

    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(StrictModel):
    """What an answer must match."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _the_schema_goes_with_its_type(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is given with the type json_schema, and only then")
        return self


class ChatRequest(BaseRequest):
    """`POST /v1/chat/completions`."""

    messages: list[RequestMessage] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1, description="The most to generate.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The same, newer name.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=MOST_TOOLS)] | None = Field(
        None, description="For models whose template has tools."
    )
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = Field(None, description="false only without tools.")

    @property
    def callable_tools(self) -> list[dict[str, Any]]:
        """The tools that may be called, as JSON."""
        tools = [] if self.tool_choice == "none" else self.tools or []
        return [tool.model_dump(exclude_none=True) for tool in tools]

    @model_validator(mode="after")
    def _one_limit_and_top_with_logprobs(self) -> "ChatRequest":
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens mean the same; give one")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs is for logprobs: true")
        if self.parallel_tool_calls is False and self.callable_tools:
            raise ValueError(
                "parallel_tool_calls: false is not supported; a model may call several"
            )
        return self


Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionRequest(BaseRequest):
    """`POST /v1/completions`."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MOST_PROMPTS)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=MOST_PROMPTS)]
    ) = Field(description="A text, token ids, or several of one of them.")
    max_tokens: int | None = Field(None, ge=0, description="16 unless given; 0 with echo alone.")
    echo: bool | None = Field(None, description="Begin with the prompt.")
    logprobs: int | None = Field(
        None, ge=0, le=MOST_TOP, description="How many likely tokens are told at each step."
    )

    @model_validator(mode="after")
    def _something_to_say(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens 0 needs echo: true, else there is nothing to say")
        return self


class AdapterRequest(StrictModel):
    """`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`."""

    lora_name: ModelName


Finish = Literal["stop", "length", "tool_calls"]


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """Every reply that is not 2xx."""

    error: ErrorBody


_ERROR_REPLY = {"$ref": "#/components/schemas/ErrorReply"}
ERRORS: dict[int | str, dict[str, Any]] = {
    # No `model`: FastAPI would say that a route of plain text has its errors as plain text too.
    status: {"description": text, "content": {"application/json": {"schema": _ERROR_REPLY}}}
    for status, text in {
        400: "The request is not what it should be.",
        401: "The token is missing or another.",
        403: "The Host or the Origin is not one that this server answers.",
        404: "There is no such model.",
        405: "The path knows other methods.",
        408: "The request did not arrive in time.",
        411: "The body has no length.",
        413: "The body is too long.",
        415: "The body is no JSON.",
        429: "Too many requests wait.",
        500: "The engine failed.",
        503: "The engine is stopping, or does not answer.",
    }.items()
}
"""What every route may answer instead, for the OpenAPI document."""


class ModelCard(BaseModel):
    """A model that can be named; `root` and `parent` as vLLM shows adapters."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["mlx-tune"] = "mlx-tune"
    root: str
    parent: str | None
    max_model_len: int | None


class ModelList(BaseModel):
    """`GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Usage(BaseModel):
    """Tokens read and generated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(BaseModel):
    """A token that was likely."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that was chosen, and others that were likely."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Of every token of an answer."""

    content: list[TokenLogprob]


class FunctionReply(BaseModel):
    """What is to be called, with JSON for its arguments."""

    name: str
    arguments: str


class ToolCallReply(BaseModel):
    """A call that the model makes."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionReply


class ResponseMessage(BaseModel):
    """An answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    tool_calls: list[ToolCallReply] | None = None


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: ResponseMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatReply(BaseModel):
    """`POST /v1/chat/completions` without a stream."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionLogprobs(BaseModel):
    """Of every token of a text, in the older shape; a prompt's first token has none."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One of the answers."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish | None


class CompletionReply(BaseModel):
    """`POST /v1/completions`; each chunk of its stream has this shape too."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class Health(BaseModel):
    """`GET /health`."""

    status: Literal["ok"] = "ok"
    warning: str | None = None


class _JsonRequest(Request):
    """Has its JSON value from the middleware, which parsed the body already."""

    async def json(self) -> Any:
        return self.scope[PARSED_BODY] if PARSED_BODY in self.scope else await super().json()


class JsonRoute(APIRoute):
    """A route that does not parse a body a second time."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, called with such a request."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle
