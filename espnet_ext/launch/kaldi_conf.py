"""Kaldi's ``conf/slurm.conf``: users have one that works on their cluster."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.launch.request import Request


@dataclass
class KaldiConf:
    """Kaldi's ``conf/slurm.conf``: ``command``, ``option NAME=VALUE ...``, ``default NAME=VALUE``."""

    command: list[str]
    options: dict[str, list[str]]
    defaults: dict[str, str]

    @classmethod
    def read(cls, path: Path) -> "KaldiConf":
        """Parse a file.

        Raises:
            UserError: a line that is none of the three.
        """
        conf = cls([], {}, {})
        for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            line = re.sub(r"(^|\s)#.*", "", raw).strip()
            if not line:
                continue
            word, _, rest = line.partition(" ")
            name, equals, value = rest.strip().partition(" ")[0].partition("=")
            if word == "command" and rest.strip():
                conf.command = shlex.split(rest)[1:]
            elif word == "option" and equals:
                words = shlex.split(rest.strip().partition(" ")[2])
                conf.options[f"{name.replace('-', '_')}={value}"] = words
            elif word == "default" and equals:
                conf.defaults[name.replace("-", "_")] = value
            else:
                raise UserError(
                    f"{path}:{number}: expected `command ...`, `option NAME=VALUE ...` or "
                    "`default NAME=VALUE`"
                )
        return conf

    def arguments(self, request: Request) -> list[str]:
        """Options of `sbatch`, as Kaldi's slurm.pl makes them.

        Raises:
            UserError: an option is given that the file does not map.
        """
        given = {"gpu": str(request.gpu) if request.gpu else ""}
        given["num_threads"] = str(request.num_threads) if request.num_threads > 1 else ""
        given |= request.ignored
        values = {**self.defaults, **{name: value for name, value in given.items() if value}}
        words = list(self.command)
        for name, value in values.items():
            exact, pattern = f"{name}={value}", f"{name}=*"
            if exact in self.options:
                words += self.options[exact]
            elif pattern in self.options:
                words += [word.replace("$0", value) for word in self.options[pattern]]
            elif given.get(name):
                raise UserError(f"conf/slurm.conf has no line `option {name}=*` for --{name} {value}")
        # Jobs get the whole environment from here: a narrower --export would hide what path.sh has set.
        return [word for word in words if not word.startswith("--export")]
