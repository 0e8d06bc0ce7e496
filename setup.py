from setuptools import setup
setup(cmake_source_dir=".")  # scikit-build-core's plugin runs CMake; everything else is in pyproject.toml.
