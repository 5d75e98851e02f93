"""Lists the packages, which pyproject.toml cannot: `configs/` becomes `toco_jax/configs/`."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["toco_jax*"]), "toco_jax.configs"],
    package_dir={"toco_jax.configs": "configs"},
)
