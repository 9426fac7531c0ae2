"""`mlx-tune fuse`: the folded model as a folder."""

from mlx_tune.cli.options import STORE, BaseOption, OutOption, SessionOption, StoreOption


def fuse(
    *,
    out: OutOption,
    session: SessionOption = None,
    store: StoreOption = STORE,
    base: BaseOption = None,
) -> None:
    """Write base and sessions as one model that mlx-lm loads."""
    from mlx_tune.cli.console import say
    from mlx_tune.workflows.fuse import fuse as carry_out

    written = carry_out(store, out=out, session=session, base=base, say=say)
    print(f"✓ {written.folder_name if written else 'the bare base'} written to {out}")
    print(f"try it with: mlx_lm.generate --model {out} --prompt '…'")
