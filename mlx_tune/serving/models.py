"""The models in memory: one set of base arrays, and the sessions' factors beside them.

HEAD's chain is folded into weights of its own, as every command folds it. The base and all other
sessions share the base's arrays; a session's factors are concatenated beside them, which equals the
fold but for rounding. Where the machine has no room for two sets of weights, HEAD has none of its
own as soon as another model is asked. All of it happens on the engine's thread.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace

import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_tune.inference import Batcher, TokenBytes
from mlx_tune.models.bases import BaseInfo
from mlx_tune.models.tokenizer import Tokenizer
from mlx_tune.serving.jobs import AnswerBuilder, GenerationJob
from mlx_tune.serving.registry import HEAD, RegisteredModel
from mlx_tune.workflows.workspace import free_memory, load_beside, load_folded

Key = tuple[bool, tuple[str, ...]]


@dataclass(eq=False, kw_only=True)
class LoadedModel:
    """A model in memory, and the answers it is making, by the batcher's number."""

    model: RegisteredModel
    network: nn.Module
    batcher: Batcher
    answers: dict[int, AnswerBuilder]

    def begin(self, job: GenerationJob, token_bytes: TokenBytes) -> int:
        """Begin an answer; return how many tokens of its prompt need not be read."""
        request = job.request
        processors = list(request.sampling.processors(len(request.prompt)))
        grammar = request.grammar.processor() if request.grammar else None
        if grammar is not None:  # last, so that no other processor allows what it forbids
            processors.append(grammar)
        number = self.batcher.add(
            request.prompt,
            max_tokens=request.max_tokens,
            sampler=request.sampling.sampler(),
            processors=processors,
        )
        self.answers[number] = AnswerBuilder(job, token_bytes, grammar)
        return self.batcher.cached_tokens(number)

    def end(self, numbers: list[int]) -> None:
        """Remove answers, finished or not."""
        for number in numbers:
            self.answers.pop(number, None)
        self.batcher.remove(numbers)


class ModelCache:
    """Loads models as they are asked for, and frees those that are not.

    Args:
        info: The store's base.
        tokenizer: Its; all models share it.
        most: Sessions in memory besides the one in use.
        prefix_bytes: Of keys and values that each may keep for prompts that begin alike.
        memory_bytes: What there is for all of it.

    Attributes:
        token_bytes: Of the tokenizer's tokens.
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
        self._tokenizer, self.token_bytes = tokenizer, TokenBytes.of(tokenizer)
        self._info, self._most, self._prefix_bytes = info, most, prefix_bytes
        self._memory_bytes, self._weights_bytes = memory_bytes, 0
        self._base: nn.Module | None = None
        self._wants_base = False
        self._loaded: OrderedDict[Key, LoadedModel] = OrderedDict()
        self._head: Key | None = None

    def get(self, model: RegisteredModel) -> LoadedModel:
        """Return a model, loaded now if need be.

        Raises:
            MlxTuneError: It cannot be loaded.
        """
        if model.is_folded or model.name == HEAD:
            self._head = model.key
        self._wants_base |= not model.is_folded
        if self._is_crowded:
            model = replace(model, is_folded=False)
        if model.key not in self._loaded:
            self.tidy()
            self._make_room(model)
            network = self._load(model)
            self._loaded[model.key] = LoadedModel(
                model=model, network=network, batcher=self._batcher(network), answers={}
            )
        self._loaded.move_to_end(model.key)
        return self._loaded[model.key]

    def all(self) -> list[LoadedModel]:
        """Return those in memory, the least recently used first."""
        return list(self._loaded.values())

    def restart(self, loaded: LoadedModel) -> None:
        """Give a model a new batcher, after a fault in the old one."""
        loaded.answers.clear()
        loaded.batcher.close()
        loaded.batcher = self._batcher(loaded.network)

    def drop(self, model: RegisteredModel) -> bool:
        """Free a model that generates nothing; return whether it was there and is gone."""
        keys = dict.fromkeys((model.key, replace(model, is_folded=False).key))
        found = [self._loaded[key] for key in keys if key in self._loaded]
        if not found or any(loaded.answers for loaded in found):
            return False
        for loaded in found:
            self._forget(loaded)
        return True

    def tidy(self) -> None:
        """Free weights that HEAD no longer answers from, once nobody waits for them."""
        for loaded in self.all():
            is_past = self._is_crowded or loaded.model.key != self._head
            if loaded.model.is_folded and is_past and not loaded.answers:
                self._forget(loaded)

    def clear(self) -> None:
        """Free everything."""
        for loaded in self.all():
            loaded.batcher.close()
        self._loaded.clear()
        self._base = None
        free_memory()

    @property
    def _is_crowded(self) -> bool:
        """Whether the base's weights are wanted, and another set has no room beside them."""
        both = 2 * (self._weights_bytes + self._prefix_bytes)
        return self._wants_base and both > self._memory_bytes

    def _load(self, model: RegisteredModel) -> nn.Module:
        if model.is_folded:
            return self._weighed(load_folded(self._info, model.chain).model)
        if self._base is None:
            self._base = self._weighed(load_folded(self._info, ()).model)
        if not model.chain:
            return self._base
        return load_beside(self._base, self._info, model.chain)

    def _weighed(self, network: nn.Module) -> nn.Module:
        self._weights_bytes = sum(array.nbytes for _, array in tree_flatten(network.parameters()))
        return network

    def _batcher(self, network: nn.Module) -> Batcher:
        return Batcher(network, self._tokenizer, prefix_bytes=self._prefix_bytes)

    def _make_room(self, model: RegisteredModel) -> None:
        """Free idle sessions, the least recently used first, where there are too many."""
        if not model.chain or self._is_head(model):
            return
        beside = [one for one in self.all() if one.model.chain and not self._is_head(one.model)]
        idle = [loaded for loaded in beside if not loaded.answers]
        for loaded in idle[: max(0, len(beside) - self._most + 1)]:
            self._forget(loaded)

    def _is_head(self, model: RegisteredModel) -> bool:
        return model.is_folded or (self._head is not None and model.key[1] == self._head[1])

    def _forget(self, loaded: LoadedModel) -> None:
        del self._loaded[loaded.model.key]
        loaded.batcher.close()
        free_memory()
