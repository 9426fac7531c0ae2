"""Runs the command for ``python -m mlx_tune``, where it is not on the path."""

if __name__ == "__main__":  # a process that this one spawns imports this file, and only that
    from mlx_tune.cli.main import run

    run()
