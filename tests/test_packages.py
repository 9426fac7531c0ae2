"""The public names of packages: each is what its module defines, and none loads MLX too early."""

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["training", "models"])
def test_every_public_name_is_that_of_its_module(package):
    found = importlib.import_module(f"mlx_tune.{package}")
    for module, names in found._MODULES.items():
        for name in names:
            defined = vars(importlib.import_module(f"mlx_tune.{package}.{module}"))[name]
            assert getattr(found, name) is defined
    with pytest.raises(AttributeError, match=f"'mlx_tune.{package}' has no attribute 'nothing'"):
        _ = found.nothing


def test_the_packages_themselves_load_neither_mlx_nor_transformers_nor_numpy():
    code = (
        "import sys, mlx_tune.training, mlx_tune.models, mlx_tune.data, mlx_tune.store\n"
        "print(sorted({'mlx', 'mlx_lm', 'numpy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
