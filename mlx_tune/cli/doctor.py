"""`mlx-tune doctor`: what this machine can do, and what is wrong."""

from mlx_tune.cli.options import STORE, JsonOption, StoreOption


def doctor(*, store: StoreOption = STORE, json: JsonOption = False) -> None:
    """Say what this machine can do, what is wrong, and how to mend it."""
    from mlx_tune.cli.console import print_json
    from mlx_tune.errors import DamagedStoreError
    from mlx_tune.workflows.doctor import examine

    findings = examine(store)
    if json:
        print_json([vars(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "✓" if finding.good else "✗"
            print(f"{mark} {finding.about:<9} {finding.text}")
    if any(finding.fatal for finding in findings):
        raise DamagedStoreError(f"{store}: is damaged, see above; HEAD was not moved")
