"""A base model's tokenizer with its chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_tune.errors import InputError
from mlx_tune.models import template as template_module
from mlx_tune.models.template import Renderer

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]

_VARIABLES = ("bos_token", "eos_token", "unk_token", "pad_token")  # that a template may print


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Text to tokens and back, and conversations to text.

    Attributes:
        wrapper: mlx-lm's ``TokenizerWrapper``, which its generators need.
        template: The chat template with its date pinned; None for a plain language model.
        end_ids: The ids of the tokens that end a turn or a text.
        renderer: The process that renders the template; None to start one for each call.
    """

    wrapper: Any
    template: str | None
    end_ids: frozenset[int] = field(default_factory=frozenset)
    renderer: Renderer | None = None

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a rendered text; no special tokens are added."""
        # A request that is too long is refused by us; transformers would warn in the log besides.
        return list(self.wrapper.encode(text, add_special_tokens=False, verbose=False))

    def encode_plain(self, text: str) -> list[int]:
        """Return the token ids of a text without a template, with a start token if there is one."""
        return list(self.wrapper.encode(text, verbose=False))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self.wrapper.decode(list(tokens), skip_special_tokens=True))

    def decode_raw(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, with special tokens."""
        return str(self.wrapper.decode(list(tokens)))

    @property
    def start_text(self) -> str:
        """The text of the token that is put before a text; empty where none is."""
        number = self.wrapper.bos_token_id
        adds = number is not None and self.encode_plain("a")[:1] == [number]
        return str(self.wrapper.bos_token) if adds else ""

    @property
    def end_id(self) -> int:
        """The id of the token that ends a text."""
        return int(self.wrapper.eos_token_id)

    @property
    def special_texts(self) -> frozenset[str]:
        """The texts of the special tokens; text of a row must not contain them."""
        added = self.wrapper.added_tokens_decoder.values()
        listed = {str(token.content) for token in added if token.special}
        return frozenset(listed | set(self.wrapper.all_special_tokens))

    def render(
        self,
        conversations: Sequence[Messages],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Tools] = (),
    ) -> list[str]:
        """Return the text of each conversation, rendered with the chat template.

        Args:
            conversations: Lists of messages, each with ``role`` and ``content``; ``tool_calls``
                and ``tool_call_id`` as in OpenAI's format, but for arguments, which are values.
            add_generation_prompt: Whether to end with the beginning of the assistant's turn.
            tools: Those of each conversation, in OpenAI's format; nothing where none has any.

        Raises:
            InputError: There is no template, or it fails; see `template.render`.
        """
        if not conversations:
            return []
        if self.template is None:
            raise InputError(
                "this base model has no chat template; train it on `text` rows, or use an "
                "instruction-tuned base model"
            )
        return template_module.render(
            self.template,
            [
                {
                    "messages": list(map(dict, conversation)),
                    "add_generation_prompt": add_generation_prompt,
                    **({"tools": list(map(dict, own))} if own else {}),
                }
                for conversation, own in zip(
                    conversations, tools or [()] * len(conversations), strict=True
                )
            ],
            variables={name: getattr(self.wrapper, name, None) for name in _VARIABLES},
            renderer=self.renderer,
        )

    def prompt(self, messages: Messages, tools: Tools = ()) -> list[int]:
        """Return the token ids of a conversation, up to the beginning of the assistant's turn."""
        return self.encode(self.render([messages], add_generation_prompt=True, tools=[tools])[0])
