"""What the API answers, in OpenAI's shapes."""

from typing import Any, Literal

from pydantic import BaseModel

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


class ChatMessage(BaseModel):
    """An answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    tool_calls: list[ToolCallReply] | None = None


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: ChatMessage
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
    """Of every token of a text, in the older shape; the first of a prompt has none."""

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


def error_body(
    message: str, *, status: int, code: str | None = None, param: str | None = None
) -> dict[str, Any]:
    """Return an error as JSON values."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = ErrorBody(message=message, type=kind, param=param, code=code)
    return ErrorReply(error=body).model_dump()
