"""One configuration from several: what differs stands once."""

from pathlib import Path

import yaml

from espnet_ext.recipe.options import read_yaml


def merge(*files: Path) -> dict:
    """Merge YAML files; a later file wins.

    Mappings (``optim_conf``) are merged key by key, unless the later file makes the choice they belong to
    (``optim``): the options of one optimiser mean nothing to another.

    Returns:
        the merged mapping, in the order of first appearance.

    Raises:
        UserError: a file that is no YAML mapping.
    """
    merged: dict = {}
    for file in files:
        later = read_yaml(file)
        for name, value in later.items():
            before = merged.get(name)
            chosen = name.removesuffix("_conf") if name.endswith("_conf") else None
            if isinstance(before, dict) and isinstance(value, dict) and chosen not in later:
                value = {**before, **value}
            merged[name] = value
        # A choice without options of its own does not inherit those of another choice.
        for name in later:
            if f"{name}_conf" in merged and f"{name}_conf" not in later:
                del merged[f"{name}_conf"]
    return merged


def dump(config: dict, files: list[str]) -> str:
    """YAML text of a merged configuration, with a first line that says where it comes from."""
    return f"# Merged from {', '.join(files)}\n" + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
