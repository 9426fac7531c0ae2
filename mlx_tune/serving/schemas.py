"""What requests may hold. A field that is not here is refused: none is accepted and ignored."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MODEL = Field(
    min_length=1,
    max_length=200,
    description="`head` (the session in use), `base`, or a session as GET /v1/models lists it.",
    examples=["head"],
)
MOST_ANSWERS, MOST_STOPS, MOST_PROMPTS, MOST_TOP, MOST_TOOLS = 8, 16, 64, 20, 64
Stop = Annotated[str, Field(min_length=1, max_length=1000)]


class Strict(BaseModel):
    """Takes the fields it names, of the types it names, and finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """How a stream ends."""

    include_usage: bool = Field(False, description="End with a chunk that counts the tokens.")


class Drawn(Strict):
    """What both kinds of requests say of how an answer is drawn."""

    model: str = MODEL
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
    def _stream_options_need_a_stream(self) -> "Drawn":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for stream: true")
        return self


class TextPart(Strict):
    """A part of a message; only texts are read."""

    type: Literal["text"]
    text: str


Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class CalledFunction(Strict):
    """What was called, with JSON for its arguments."""

    name: Name
    arguments: str


class Called(Strict):
    """A call that the model made."""

    id: str = Field(min_length=1, max_length=64)
    type: Literal["function"]
    function: CalledFunction


class Message(Strict):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(min_length=1)] | None = None
    tool_calls: Annotated[list[Called], Field(min_length=1, max_length=MOST_TOOLS)] | None = None
    tool_call_id: str | None = Field(None, min_length=1, max_length=64)

    @model_validator(mode="after")
    def _each_role_says_its_own(self) -> "Message":
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


class Function(Strict):
    """What a model may call; its arguments are not held to the schema (`strict`)."""

    name: Name
    description: str | None = Field(None, max_length=10_000)
    parameters: dict[str, Any] | None = None
    strict: Literal[False] | None = None


class Tool(Strict):
    """A tool that is offered."""

    type: Literal["function"]
    function: Function


class JsonSchema(Strict):
    """A schema that the answer has to fit."""

    name: str = Field(min_length=1, max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Strict):
    """What an answer is held to."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _the_schema_goes_with_its_type(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is given with the type json_schema, and only then")
        return self


class ChatRequest(Drawn):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1, description="The most to generate.")
    max_completion_tokens: int | None = Field(None, ge=1, description="The same, newer name.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=MOST_TOOLS)] | None = Field(
        None, description="For models whose template has tools."
    )
    tool_choice: Literal["auto", "none"] | None = None

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools that may be called, as JSON."""
        tools = [] if self.tool_choice == "none" else self.tools or []
        return [tool.model_dump(exclude_none=True) for tool in tools]

    @model_validator(mode="after")
    def _one_limit_and_top_with_logprobs(self) -> "ChatRequest":
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens mean the same; give one")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is for logprobs: true")
        return self


Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionRequest(Drawn):
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


class AdapterRequest(Strict):
    """`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`."""

    lora_name: str = MODEL
