"""What tokens stand for: the bytes of each, and the text of several as it comes.

A token need not be a whole character: byte-level vocabularies cut inside of one, and SentencePiece
spells what it lacks as tokens such as ``<0xE4>``. Bytes are exact; text is what is whole of them.
"""

import codecs
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_tune.errors import InputError
from mlx_tune.models.tokenizer import Tokenizer

Rule = Callable[[str | bytes], str | bytes]


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """How a tokenizer's tokens are written.

    Attributes:
        pieces: The bytes of each token by its number, special tokens as they are spelt; empty for
            a number that no token has.
        special: The tokens that are structure, not text.
        spaced: Whether a text's first token begins with a space that is none of the text's, as
            SentencePiece has it.
    """

    pieces: tuple[bytes, ...]
    special: frozenset[int]
    spaced: bool = False

    def __call__(self, token: int, *, first: bool = False) -> bytes:
        """Return the bytes of a token; none of a number beyond the vocabulary.

        Args:
            token: Its number.
            first: Whether it begins a text, such as an answer.
        """
        piece = self.pieces[token] if 0 <= token < len(self.pieces) else b""
        return piece.removeprefix(b" ") if first and self.spaced else piece


class Detokeniser:
    """The text of an answer, token by token, never half a character.

    What special tokens spell is left out, and bytes that are no UTF-8 become U+FFFD.

    Args:
        spelling: The tokenizer's.
        continues: Whether the tokens go on with a text, so that a first space belongs to it.
    """

    def __init__(self, spelling: Spelling, *, continues: bool = False) -> None:
        self._spelling, self._first = spelling, not continues
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """Return the text that is whole with this token; empty in the middle of a character."""
        if token in self._spelling.special:
            return ""
        piece = self._spelling(token, first=self._first)
        self._first = False
        return self._decoder.decode(piece)

    def finish(self) -> str:
        """Return what is left: U+FFFD for a character that was never completed."""
        return self._decoder.decode(b"", final=True)


def spelling(tokenizer: Tokenizer) -> Spelling:
    """Return how a tokenizer's tokens are written; takes a moment, so keep it.

    Raises:
        InputError: It puts text together in a way that gives no token bytes of its own.
    """
    wrapper = tokenizer.wrapper
    names = {int(number): str(name) for name, number in wrapper.get_vocab().items()}
    added = wrapper.added_tokens_decoder.items()
    steps = list(_steps(json.loads(wrapper.backend_tokenizer.decoder.__getstate__())))
    rules = [rule for step in steps for rule in _rules(step)]

    def piece(number: int) -> bytes:
        spelt: str | bytes = names.get(number, "")
        for rule in rules:
            spelt = rule(spelt)
        return spelt.encode() if isinstance(spelt, str) else spelt

    return Spelling(
        pieces=tuple(map(piece, range(max(names) + 1))),
        special=frozenset(int(number) for number, token in added if token.special),
        spaced=any(map(_spaces, steps)),
    )


def token_bytes(tokenizer: Tokenizer) -> Callable[[int], bytes]:
    """Return the function from a token to its bytes.

    Raises:
        InputError: As ``spelling``.
    """
    return spelling(tokenizer)


def _steps(decoder: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield what a decoder does to the pieces, in order."""
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
            return [_from_alphabet]
        case {"type": "ByteFallback"}:
            return [_from_hex]
        case {"type": "Metaspace", "replacement": str(mark)}:
            return [_replacing(mark, " ")]
        case {"type": "Replace", "pattern": {"String": str(found)}, "content": str(instead)}:
            return [_replacing(found, instead)]
        # Neither changes a piece: one joins them, the other trims the beginning of the whole text.
        case {"type": "Fuse"} | {"type": "Strip", "content": " ", "start": 0 | 1, "stop": 0}:
            return []
        case _:
            raise InputError(
                f"this tokenizer joins its tokens by {json.dumps(step)[:120]}, which gives them no "
                "bytes of their own; ByteLevel, ByteFallback, Metaspace, Replace, Fuse and Strip do"
            )


def _spaces(step: Mapping[str, Any]) -> bool:
    """Say whether a step takes away the space that every text begins with."""
    if step["type"] == "Metaspace":
        return bool(step.get("prepend_scheme", "always") != "never")
    return bool(step["type"] == "Strip" and step["start"])


def _replacing(found: str, instead: str) -> Rule:
    return lambda piece: piece.replace(found, instead) if isinstance(piece, str) else piece


def _from_hex(piece: str | bytes) -> str | bytes:
    """``<0xE4>`` is the byte 0xE4."""
    if isinstance(piece, str) and len(piece) == 6 and piece[:3] == "<0x" and piece[5] == ">":
        try:
            return bytes.fromhex(piece[3:5])
        except ValueError:
            return piece
    return piece


def _alphabet() -> dict[str, int]:
    """The characters in which byte-level vocabularies write bytes, and the byte of each.

    Source:
        Radford et al. 2019, "Language models are unsupervised multitask learners", the encoder that
        came with it: printable Latin-1 is itself, the rest follows from U+0100 on.
    """
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(b): b for b in itself} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTES = _alphabet()


def _from_alphabet(piece: str | bytes) -> str | bytes:
    if isinstance(piece, str) and all(character in _BYTES for character in piece):
        return bytes(_BYTES[character] for character in piece)
    return piece
