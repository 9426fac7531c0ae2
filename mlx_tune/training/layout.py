"""How the rows of a micro-batch lie in memory: one after another, without padding between.

Everything but attention looks at one token at a time, so it sees the tokens of all rows as one
flat sequence: the shared prefix once, then row after row. Attention sees a grid, the prefix as its
first line and then a line for every row, and only there is there padding.
"""

from dataclasses import dataclass

import mlx.core as mx

_UNSEEN = -1e9


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where each token lies in the grid, and back.

    Attributes:
        prefix: Tokens every row begins with; they come first and once, and are the first line.
        grid: The flat index of each cell's token, int32 (lines, width). An empty cell reads a
            padding token.
        cells: The cell, in the flattened grid, of each token, int32 (tokens,).
    """

    prefix: int
    grid: mx.array
    cells: mx.array

    def queries(self, flat: mx.array, heads: int) -> mx.array:
        """Lay heads out by line: (tokens, heads · head_dim) to (lines, heads, width, head_dim)."""
        return self._take(flat.reshape(self.cells.size * heads, -1), heads)

    def flat(self, grid: mx.array) -> mx.array:
        """Put tokens one after another again; the inverse of :meth:`queries`."""
        heads, width = grid.shape[1:3]
        order, inverse = self._cells_of(heads, width), self._tokens_of(heads)

        @mx.custom_function
        def take(grid: mx.array) -> mx.array:
            cells = grid.reshape(-1, grid.shape[-1])
            return mx.take(cells, order, axis=0).reshape(order.shape[0], -1)

        @take.vjp
        def gradient(_: mx.array, cotangent: mx.array, __: mx.array) -> mx.array:
            return mx.take(cotangent.reshape(order.size, -1), inverse, axis=0)

        return take(grid)  # type: ignore[return-value]  # MLX's stub returns object

    def keys(self, flat: mx.array, heads: int) -> mx.array:
        """Lay out what each line may look at: the prefix, then its own tokens.

        Args:
            flat: Keys or values, (tokens, heads · head_dim).
            heads: How many.

        Returns:
            (lines, heads, prefix + width, head_dim), at positions 0 and on in every line that is
            a row; the prefix's own line looks at the first part alone.
        """
        lines, width = self.grid.shape
        before = self.prefix
        own = self._tokens_of(heads)
        first = mx.arange(before)[None, :] * heads + mx.arange(heads)[:, None]
        order = mx.concatenate([mx.broadcast_to(first, (lines, heads, before)), own], axis=2)
        inverse = self._cells_of(heads, before + width, before)

        @mx.custom_function
        def take(flat: mx.array) -> mx.array:
            return mx.take(flat.reshape(self.cells.size * heads, -1), order, axis=0)

        @take.vjp
        def gradient(_: mx.array, cotangent: mx.array, __: mx.array) -> mx.array:
            dims = cotangent.shape[-1]
            own = mx.take(cotangent.reshape(-1, dims), inverse, axis=0)
            if before:
                shared = cotangent[:, :, :before].sum(axis=0).swapaxes(0, 1)
                own = mx.concatenate([shared, own[before:]], axis=0)
            return own.reshape(self.cells.size, heads * dims)

        return take(flat)  # type: ignore[return-value]  # MLX's stub returns object

    def offsets(self) -> mx.array:
        """Return the position of each line's first query, int32 (lines,)."""
        lines = mx.arange(self.grid.shape[0])
        return mx.where(lines > 0, self.prefix, 0).astype(mx.int32)

    def bias(self, window: int | None = None) -> mx.array:
        """Return what is added to attention scores: 0 where a query sees a key, else very negative.

        Args:
            window: How many tokens back a query sees, itself included; None for all.

        Returns:
            float32 (lines, 1, width, prefix + width).
        """
        width = self.grid.shape[1]
        keys = mx.arange(self.prefix + width)[None, None]
        queries = self.offsets()[:, None, None] + mx.arange(width)[None, :, None]
        seen = keys <= queries
        if window is not None:
            seen = seen & (queries < keys + window)
        return mx.where(seen, 0.0, _UNSEEN)[:, None]

    def _take(self, heads_of_tokens: mx.array, heads: int) -> mx.array:
        order, inverse = self._tokens_of(heads), self._cells_of(heads, self.grid.shape[1])

        @mx.custom_function
        def take(x: mx.array) -> mx.array:
            return mx.take(x, order, axis=0)

        # MLX would add the gradient up index by index. Only a padding token's index repeats, and
        # its gradient is zero: nothing that is taught sees what comes after it in its line.
        @take.vjp
        def gradient(_: mx.array, cotangent: mx.array, __: mx.array) -> mx.array:
            cells = cotangent.reshape(-1, cotangent.shape[-1])
            return mx.take(cells, inverse.reshape(-1), axis=0)

        return take(heads_of_tokens)  # type: ignore[return-value]  # MLX's stub returns object

    def _tokens_of(self, heads: int) -> mx.array:
        """Return which head of which token each cell takes, int32 (lines, heads, width)."""
        return self.grid[:, None, :] * heads + mx.arange(heads, dtype=mx.int32)[None, :, None]

    def _cells_of(self, heads: int, width: int, skipped: int = 0) -> mx.array:
        """Return the cell of each token's heads, int32 (tokens, heads), in lines of a width."""
        line, column = self.cells // self.grid.shape[1], self.cells % self.grid.shape[1]
        head = mx.arange(heads, dtype=mx.int32)[None]
        return (line[:, None] * heads + head) * width + (skipped + column)[:, None]
