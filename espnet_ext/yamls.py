"""YAML as people write it: what is wrong in it is told with its file and line."""

import os

import yaml

from espnet_ext.errors import UserError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_yaml(text: str, where: str | os.PathLike, loader_class: type = _Loader):
    """The plain values of a YAML text, None if it is empty.

    Args:
        text: one document.
        where: the file that it is from, for messages.
        loader_class: PyYAML's, or one with other rules about what is a number.

    Raises:
        UserError: it is not YAML, or a mapping has the same key twice. YAML allows it no more than once; its
            loader takes the later one in silence, and the other one is without effect.
    """
    try:
        loader = loader_class(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _refuse_twice(node, where)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except Exception as error:  # PyYAML's own; of a date that is none or a wrong tag, anything
        if isinstance(error, UserError):
            raise
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not YAML: {getattr(error, 'problem', error)}") from None


def _refuse_twice(root: yaml.Node, where: str | os.PathLike) -> None:
    """Looks at the text's own keys: what `<<` merges in comes later, and may be overwritten."""
    waiting, seen = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            first: dict[tuple[str, str], int] = {}  # line of each key
            for key, _ in inner:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                line, name = key.start_mark.line + 1, (key.tag, key.value)
                if name in first:
                    raise UserError(
                        f"{where}:{line}: {key.value} stands twice in one mapping, first in line "
                        f"{first[name]}; keep one of the two"
                    )
                first[name] = line
            inner = [each for pair in inner for each in pair]
        for each in inner:
            if id(each) not in seen:
                seen.add(id(each))
                waiting.append(each)
