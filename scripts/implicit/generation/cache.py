"""Key-value caches that grow in place and can be shared by many continuations."""

import copy

import torch
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64  # spare tokens allocated whenever a layer grows


class GrowingLayer(DynamicLayer):
    """A layer that is written in place, with spare room for ROOM tokens, so that it is not copied for every token.

    ``keys`` and ``values`` are the filled part, [rows, heads, tokens, dimension].
    """

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs) -> tuple:
        """Append new keys and values; returns all keys and all values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values, self.room = key_states[..., :0, :], value_states[..., :0, :], None
        before = self.keys.shape[-2]
        after = before + key_states.shape[-2]
        if self.room is None or self.room[0].shape[-2] < after:
            self.room = _with_room(self.keys, after), _with_room(self.values, after)
        for room, new in zip(self.room, (key_states, value_states), strict=True):
            room[..., before:after, :] = new
        self.keys, self.values = (room[..., :after, :] for room in self.room)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only these rows, in newly allocated memory."""
        self.room = tuple(room[indices] for room in self.room)
        self.keys, self.values = (room[..., : self.keys.shape[-2], :] for room in self.room)


def _with_room(states: torch.Tensor, tokens: int) -> torch.Tensor:
    """A copy with room for ``tokens`` plus ROOM tokens."""
    copied = states.new_empty((*states.shape[:-2], tokens + ROOM, states.shape[-1]))
    copied[..., : states.shape[-2], :] = states
    return copied


def growing_cache(config: PretrainedConfig) -> DynamicCache:
    """An empty cache for a model. Layers of special types (sliding windows) are left as the library makes them."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def taken(cache: DynamicCache, rows: torch.Tensor) -> DynamicCache:
    """A cache of the selected rows (int64, in any order, repeats allowed); the given cache is not changed."""
    copied = copy.copy(cache)
    copied.layers = [copy.copy(layer) for layer in cache.layers]
    copied.batch_select_indices(rows)
    return copied
