"""From tokens to text: the bytes of each token, text as it streams, and stop strings in it.

A token need not be a whole character: byte-level vocabularies cut inside of one, and SentencePiece
writes characters it lacks as byte tokens such as ``<0xE4>``. So bytes are exact, and text is as
much of them as makes whole characters.
"""

import codecs
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_tune.errors import InputError, UsageError
from mlx_tune.models.tokenizer import Tokenizer

Rule = Callable[[str | bytes], str | bytes]


@dataclass(frozen=True, kw_only=True)
class TokenBytes:
    """The bytes of each token of a tokenizer.

    llguidance can say them too, but it refuses Metaspace decoders and knows no bytes for the byte
    token 0xFF.

    Attributes:
        vocabulary: The bytes of each token by its id, special tokens by their names; empty for an
            id that no token has.
        special: The special tokens' ids; they are structure, not text.
        prepends_space: Whether a text's first token begins with a space that is no part of the
            text, as SentencePiece has it.
    """

    vocabulary: tuple[bytes, ...]
    special: frozenset[int]
    prepends_space: bool = False

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "TokenBytes":
        """Return the bytes of a tokenizer's tokens; it takes a moment, so keep them.

        Raises:
            InputError: It joins its tokens in a way that gives them no bytes of their own.
        """
        wrapper = tokenizer.wrapper
        names = {int(token): str(name) for name, token in wrapper.get_vocab().items()}
        added = wrapper.added_tokens_decoder.items()
        steps = list(_steps(json.loads(wrapper.backend_tokenizer.decoder.__getstate__())))
        rules = [rule for step in steps for rule in _rules(step)]

        def decode(token: int) -> bytes:
            piece: str | bytes = names.get(token, "")
            for rule in rules:
                piece = rule(piece)
            return piece.encode() if isinstance(piece, str) else piece

        return cls(
            vocabulary=tuple(map(decode, range(max(names) + 1))),
            special=frozenset(int(token) for token, name in added if name.special),
            prepends_space=any(map(_prepends_space, steps)),
        )

    def __call__(self, token: int, *, first: bool = False) -> bytes:
        """Return the bytes of a token, which may be a text's first; none for an unknown id."""
        raw = self.vocabulary[token] if 0 <= token < len(self.vocabulary) else b""
        return raw.removeprefix(b" ") if first and self.prepends_space else raw


class StreamingDetokenizer:
    """The text of an answer, token by token, never half a character.

    Special tokens are left out, and bytes that are no UTF-8 become U+FFFD. Neither mlx-lm's nor
    the tokenizers package's would do: the former write special tokens out, or drop a space that
    begins the text; the latter never tells a character that is left unfinished.

    Args:
        token_bytes: The tokenizer's.
        continues: Whether the tokens continue a text, so that a first space belongs to it.
    """

    def __init__(self, token_bytes: TokenBytes, *, continues: bool = False) -> None:
        self._token_bytes, self._first = token_bytes, not continues
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """Return the text that this token completes; empty in the middle of a character."""
        if token in self._token_bytes.special:
            return ""
        raw = self._token_bytes(token, first=self._first)
        self._first = False
        return self._decoder.decode(raw)

    def finish(self) -> str:
        """Return what is left: U+FFFD for a character that was not completed."""
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """Ends an answer at a stop string, however the text is cut, and never shows a part of one.

    The answer ends where the first stop string is *complete*, as if the model wrote one character
    after the other; of two that are complete with the same character, the longer counts.

    mlx-lm's ``TextStateMachine`` holds back more than the possible beginning of a stop string:
    with the stop "abc", nothing of "abababab" until it is over.

    Args:
        stops: The stop strings, none of them empty; there may be none at all.

    Attributes:
        found: The stop string that ended the answer; None until then.

    Raises:
        UsageError: A stop string is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise UsageError("a stop string is empty, so nothing could be answered; leave it out")
        self._stops, self._longest = tuple(stops), max(map(len, stops), default=0)
        self._held = ""
        self.found: str | None = None

    def add(self, text: str) -> str:
        """Return what may be shown now that some text has come; nothing after a stop string.

        What could be the beginning of a stop string is held back until it is known.
        """
        if self.found is not None:
            return ""
        text = self._held + text
        starts = [(text.find(stop), stop) for stop in self._stops]
        ends = [(start + len(stop), start, stop) for start, stop in starts if start >= 0]
        if ends:
            _, shown, self.found = min(ends)
            self._held = ""
            return text[:shown]
        # What was held back only grows or is shown, so this compares once a character, or little
        # more, and at the speed of memcmp however long the stop strings are.
        shown = max(0, len(text) - self._longest + 1)
        while shown < len(text) and not any(s.startswith(text[shown:]) for s in self._stops):
            shown += 1
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """Return what was held back and is text after all; the answer has ended."""
        text, self._held = self._held, ""
        return text


def _steps(decoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of a decoder, in order."""
    if decoder is None:
        raise InputError("this tokenizer has no decoder, so its tokens have no bytes of their own")
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder


def _rules(step: Mapping[str, Any]) -> list[Rule]:
    match step:
        case {"type": "ByteLevel"}:
            return [_from_byte_level]
        case {"type": "ByteFallback"}:
            return [_from_hex]
        case {"type": "Metaspace", "replacement": str(mark)}:
            return [_replacing(mark, " ")]
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
            return [_replacing(old, new)]
        # Neither changes a token: one joins them, the other trims the beginning of the whole text.
        case {"type": "Fuse"} | {"type": "Strip", "content": " ", "start": 0 | 1, "stop": 0}:
            return []
        case _:
            raise InputError(
                f"this tokenizer joins its tokens by {json.dumps(step)[:120]}, which gives them no "
                "bytes of their own; ByteLevel, ByteFallback, Metaspace, Replace, Fuse and Strip do"
            )


def _prepends_space(step: Mapping[str, Any]) -> bool:
    """Tell whether a step removes the space that every text begins with."""
    if step["type"] == "Metaspace":
        return bool(step.get("prepend_scheme", "always") != "never")
    return bool(step["type"] == "Strip" and step["start"])


def _replacing(old: str, new: str) -> Rule:
    return lambda piece: piece.replace(old, new) if isinstance(piece, str) else piece


def _from_hex(piece: str | bytes) -> str | bytes:
    """``<0xE4>`` is the byte 0xE4."""
    if isinstance(piece, str) and len(piece) == 6 and piece[:3] == "<0x" and piece[5] == ">":
        try:
            return bytes.fromhex(piece[3:5])
        except ValueError:
            return piece
    return piece


_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
# The characters in which byte-level vocabularies write bytes, and the byte of each, as in the
# encoder of Radford et al. 2019, "Language models are unsupervised multitask learners": printable
# Latin-1 is itself, the rest follows from U+0100 on.
_ALPHABET = {chr(b): b for b in _PRINTABLE} | {chr(0x100 + i): b for i, b in enumerate(_OTHERS)}


def _from_byte_level(piece: str | bytes) -> str | bytes:
    if isinstance(piece, str) and all(character in _ALPHABET for character in piece):
        return bytes(_ALPHABET[character] for character in piece)
    return piece
