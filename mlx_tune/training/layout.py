"""The layout of packed rows: one flat sequence, and the padded grid that attention needs.

All layers but attention compute each token by itself, so they take the tokens of all rows as one
flat sequence: the shared prefix once, then row after row. Attention takes a grid of cells: its
first line is the prefix, and each row has a line. Only the grid has padding.
"""

from dataclasses import dataclass

import mlx.core as mx

_MASKED = -1e9


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The cell of each token, and the token of each cell.

    Attributes:
        prefix: Number of tokens that every row begins with; they come first in the flat sequence,
            once, and are the first line of the grid. 0 where the grid has no such line.
        grid: The index in the flat sequence of each cell's token, int32 (lines, width). An empty
            cell has the index of a padding token.
        cells: The index in the flattened grid of each token's cell, int32 (tokens,).
    """

    prefix: int
    grid: mx.array
    cells: mx.array

    def queries(self, flat: mx.array, heads: int) -> mx.array:
        """Return queries in the grid.

        Args:
            flat: (tokens, heads · head_dim).
            heads: Number of heads.

        Returns:
            (lines, heads, width, head_dim).
        """
        order, inverse = self._tokens_of(heads), self._cells_of(heads, self.grid.shape[1])

        @mx.custom_function
        def take(x: mx.array) -> mx.array:
            return mx.take(x, order, axis=0)

        # MLX's own gradient of `take` adds up index by index. Only the index of a padding token
        # repeats, and its gradient is zero: no supervised token attends to what comes after it.
        @take.vjp
        def gradient(_: mx.array, cotangent: mx.array, __: mx.array) -> mx.array:
            cells = cotangent.reshape(-1, cotangent.shape[-1])
            return mx.take(cells, inverse.reshape(-1), axis=0)

        by_head = flat.reshape(self.cells.size * heads, -1)
        return take(by_head)  # type: ignore[return-value]  # MLX's stub returns object

    def flat(self, grid: mx.array) -> mx.array:
        """Return the flat sequence of a grid; the inverse of :meth:`queries`.

        Args:
            grid: (lines, heads, width, head_dim).

        Returns:
            (tokens, heads · head_dim).
        """
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
        """Return keys or values in the grid, in every line the prefix before the line's own tokens.

        Args:
            flat: Keys or values, (tokens, heads · head_dim).
            heads: Number of heads.

        Returns:
            (lines, heads, prefix + width, head_dim). The positions in the line of a row count from
            0; the line of the prefix attends only to the first part, see :meth:`bias`.
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
        """Return the additive attention mask: 0 where a query attends to a key, else -1e9.

        Args:
            window: Number of tokens that a query attends to, itself included; None for all.

        Returns:
            float32 (lines, 1, width, prefix + width).
        """
        width = self.grid.shape[1]
        keys = mx.arange(self.prefix + width)[None, None]
        queries = self.offsets()[:, None, None] + mx.arange(width)[None, :, None]
        visible = keys <= queries
        if window is not None:
            visible = visible & (queries < keys + window)
        return mx.where(visible, 0.0, _MASKED)[:, None]

    def _tokens_of(self, heads: int) -> mx.array:
        """Return the index in (tokens, heads) of each cell's heads, int32 (lines, heads, width)."""
        return self.grid[:, None, :] * heads + mx.arange(heads, dtype=mx.int32)[None, :, None]

    def _cells_of(self, heads: int, width: int, skipped: int = 0) -> mx.array:
        """Return the index in (lines, heads, width) of each token's heads, int32 (tokens, heads).

        Args:
            heads: Number of heads.
            width: Cells of a line.
            skipped: Cells at the beginning of a line that are not the line's own.
        """
        line, column = self.cells // self.grid.shape[1], self.cells % self.grid.shape[1]
        head = mx.arange(heads, dtype=mx.int32)[None]
        return (line[:, None] * heads + head) * width + (skipped + column)[:, None]
