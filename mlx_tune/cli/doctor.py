"""`mlx-tune doctor`: what this machine can do, and what is wrong."""

from mlx_tune.cli.options import STORE, JsonOption, StoreOption


def doctor(*, store: StoreOption = STORE, json: JsonOption = False) -> None:
    """Say what this machine can do, what is wrong, and how to mend it."""
    from mlx_tune.cli.console import print_json
    from mlx_tune.workflows.doctor import examine

    findings = examine(store)
    if json:
        print_json([{"about": f.about, "text": f.text, "good": f.good} for f in findings])
    else:
        for finding in findings:
            mark = "✓" if finding.good else "✗"
            print(f"{mark} {finding.about:<9} {finding.text}")
    for finding in findings:
        if finding.error is not None:
            raise finding.error
