"""What could have been meant by a configuration file that does not exist."""

import glob
import os

from espnet_ext.recipe.options import Option, did_you_mean


def known_configs(option: Option, missing: str, template: str) -> str:
    """The end of a message: what an option could have named, of the recipe's files and the template's.

    An option of names (``decode_configs``) has a pattern, and all that fit it are listed; another has a whole
    path, and only a name in the same folder that looks like it is told.
    """
    begin, _, end = option.file.partition("{}")
    if not option.file:
        begin, end = os.path.join(os.path.dirname(missing), ""), ".yaml"
    found = {
        os.path.relpath(file, folder).removeprefix(begin).removesuffix(end)
        for folder in (".", template)
        for file in glob.glob(os.path.join(folder, f"{glob.escape(begin)}*{end}"))
    }
    hint = did_you_mean(missing.removeprefix(begin).removesuffix(end), found)
    if not option.file or not found:
        return hint
    return f"{hint or '.'} There is: {', '.join(sorted(found))}"
