"""What pyproject.toml cannot say: the packages are found, and one lives beside them in kernels/."""

from setuptools import find_packages, setup

KERNELS = "speechstream.kernels"  # its folder is named in pyproject.toml's package-dir

setup(
    packages=[
        *find_packages(include=["speechstream", "speechstream.*"]),
        KERNELS,
        *(f"{KERNELS}.{name}" for name in find_packages("kernels")),
    ]
)
