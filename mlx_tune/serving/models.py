"""The models that are in memory: one set of base arrays, and what stands beside them.

HEAD's chain is folded into weights of its own, as every command folds it. The base and all other
sessions share the base's arrays; a session's factors are concatenated beside them, which equals the
fold but for rounding. Where the machine has no room for two sets of weights, HEAD has none of its
own as soon as somebody asks another model. All of it happens on the engine's thread.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace

import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_tune.inference import Batcher, TokenBytes
from mlx_tune.models.bases import BaseInfo
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.serving.answer import Answer
from mlx_tune.serving.job import Job
from mlx_tune.serving.shelf import HEAD, Choice
from mlx_tune.workflows.workspace import free_memory, load_beside, load_folded

Key = tuple[bool, tuple[str, ...]]


@dataclass(eq=False, kw_only=True)
class Served:
    """A model in memory, and the answers it is making.

    Attributes:
        choice: What it is.
        model: Ready to answer.
        batcher: Its answers, side by side.
        answers: By the batcher's number.
    """

    choice: Choice
    model: nn.Module
    batcher: Batcher
    answers: dict[int, Answer]

    def begin(self, job: Job, token_bytes: TokenBytes) -> int:
        """Let an answer grow; return how many tokens of its prompt need not be read."""
        ask = job.ask
        processors = list(ask.sampling.processors(len(ask.prompt)))
        grammar = ask.constraint.processor() if ask.constraint else None
        if grammar is not None:  # last, so that nothing allows again what it forbids
            processors.append(grammar)
        number = self.batcher.add(
            ask.prompt,
            max_tokens=ask.max_tokens,
            sampler=ask.sampling.sampler(),
            processors=processors,
        )
        self.answers[number] = Answer(job, token_bytes, grammar)
        return self.batcher.cached_tokens(number)

    def end(self, numbers: list[int]) -> None:
        """Let go of answers, whole or not."""
        for number in numbers:
            self.answers.pop(number, None)
        self.batcher.remove(numbers)


class Models:
    """Loads models as they are asked for, and lets those go that are not.

    Attributes:
        tokenizer: The base's, which all share.
        token_bytes: Of its tokens.
    """

    def __init__(
        self,
        info: BaseInfo,
        tokenizer: Tokenizer,
        *,
        most: int,
        prefix_bytes: int,
        memory_bytes: int,
    ):
        """Hold nothing yet.

        Args:
            info: The store's base.
            tokenizer: Its.
            most: Sessions in memory besides the one in use.
            prefix_bytes: Of keys and values that each may keep for prompts that begin alike.
            memory_bytes: What there is for all of it.
        """
        self.tokenizer, self.token_bytes = tokenizer, TokenBytes.of(tokenizer)
        self._info, self._most, self._prefix_bytes = info, most, prefix_bytes
        self._memory_bytes, self._weights_bytes = memory_bytes, 0
        self._base: nn.Module | None = None
        self._wants_base = False
        self._served: OrderedDict[Key, Served] = OrderedDict()
        self._head: Key | None = None

    def get(self, choice: Choice) -> Served:
        """Return a model, loaded now if need be.

        Raises:
            MlxTuneError: It cannot be loaded.
        """
        if choice.is_folded or choice.name == HEAD:
            self._head = choice.key
        self._wants_base |= not choice.is_folded
        if self._is_crowded:
            choice = replace(choice, is_folded=False)
        if choice.key not in self._served:
            self.tidy()
            self._make_room(choice)
            model = self._load(choice)
            self._served[choice.key] = Served(
                choice=choice, model=model, batcher=self._batcher(model), answers={}
            )
        self._served.move_to_end(choice.key)
        return self._served[choice.key]

    def all(self) -> list[Served]:
        """Return those in memory, the longest unused first."""
        return list(self._served.values())

    def restart(self, served: Served) -> None:
        """Give a model a new batcher, after a fault in the old one."""
        served.answers.clear()
        served.batcher.close()
        served.batcher = self._batcher(served.model)

    def drop(self, choice: Choice) -> bool:
        """Let go of a model that answers nobody; tell whether it was there and is gone."""
        keys = dict.fromkeys((choice.key, replace(choice, is_folded=False).key))
        found = [self._served[key] for key in keys if key in self._served]
        if not found or any(served.answers for served in found):
            return False
        for served in found:
            self._forget(served)
        return True

    def tidy(self) -> None:
        """Let go of weights that HEAD no longer answers from, once nobody waits for them."""
        for served in self.all():
            is_past = self._is_crowded or served.choice.key != self._head
            if served.choice.is_folded and is_past and not served.answers:
                self._forget(served)

    def clear(self) -> None:
        """Let go of everything."""
        for served in self.all():
            served.batcher.close()
        self._served.clear()
        self._base = None
        free_memory()

    @property
    def _is_crowded(self) -> bool:
        """Whether the base's weights are wanted, and another set has no room beside them."""
        both = 2 * (self._weights_bytes + self._prefix_bytes)
        return self._wants_base and both > self._memory_bytes

    def _load(self, choice: Choice) -> nn.Module:
        if choice.is_folded:
            return self._weighed(load_folded(self._info, choice.chain).model)
        if self._base is None:
            self._base = self._weighed(load_folded(self._info, ()).model)
        if not choice.chain:
            return self._base
        return load_beside(self._base, self._info, choice.chain)

    def _weighed(self, model: nn.Module) -> nn.Module:
        self._weights_bytes = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
        return model

    def _batcher(self, model: nn.Module) -> Batcher:
        return Batcher(model, self.tokenizer, prefix_bytes=self._prefix_bytes)

    def _make_room(self, choice: Choice) -> None:
        """Let go of sessions that are idle, the longest unused first, where there are too many."""
        if not choice.chain or self._is_head(choice):
            return
        beside = [one for one in self.all() if one.choice.chain and not self._is_head(one.choice)]
        idle = [served for served in beside if not served.answers]
        for served in idle[: max(0, len(beside) - self._most + 1)]:
            self._forget(served)

    def _is_head(self, choice: Choice) -> bool:
        return choice.is_folded or (self._head is not None and choice.key[1] == self._head[1])

    def _forget(self, served: Served) -> None:
        del self._served[served.choice.key]
        served.batcher.close()
        free_memory()
