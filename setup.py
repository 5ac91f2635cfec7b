"""Package metadata of espnet_ext; `make setup` installs it, with the exact versions of tools/requirements.txt."""

from setuptools import find_packages, setup

setup(
    name="espnet_ext",
    version="0.1.0",
    description="ESPnet recipes that train speech recognisers beyond plain supervised training",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["espnet_ext", "espnet_ext.*"]),
    entry_points={"espnet_ext.tasks": ["asr = espnet_ext.asr.task:ASRTask"]},
)
