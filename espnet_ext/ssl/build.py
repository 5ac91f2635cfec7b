"""Self-supervised objectives by name, with their options from YAML."""

import inspect

import torch

from espnet_ext.errors import UserError
from espnet_ext.ssl.bestrq import BestRQ
from espnet_ext.ssl.cpc import CPC
from espnet_ext.ssl.encode import feature_size
from espnet_ext.ssl.objective import SSLObjective
from espnet_ext.ssl.typed import check_mapping, check_types

OBJECTIVES: dict[str, type[SSLObjective]] = {"bestrq": BestRQ, "infonce": CPC}

#: Arguments that do not come from a person.
_OURS = ("model", "size", "seed")


def build_objective(
    name: str, options: dict, model: torch.nn.Module, input_size: int | None, seed: int
) -> SSLObjective:
    """Build an objective on a recogniser's encoder.

    Args:
        name: `bestrq` or `infonce`.
        options: keyword arguments of its class, which describes them, and its alarm_steps and alarm. Those
            that only other objectives have are left out, and said to be: a recipe's YAML holds one's, and
            `--ssl` chooses another.
        model: the recogniser.
        input_size: size of stored features where the model has no front end.
        seed: the training's.

    Raises:
        UserError: no such objective or option, an option out of range, or an encoder it cannot use.
    """
    if name not in OBJECTIVES:
        raise UserError(f"--ssl {name}: expected one of {', '.join(OBJECTIVES)}")
    check_mapping("ssl_conf", options, _defaults(name))
    alarms = {key: options[key] for key in ("alarm_steps", "alarm") if key in options}
    check_types("ssl_conf", alarms, {"alarm_steps": 200, "alarm": "warn"})
    options = {key: value for key, value in options.items() if key not in alarms}
    if alarms.get("alarm", "warn") not in ("warn", "stop"):
        raise UserError(f"ssl_conf alarm: {alarms['alarm']}: expected warn or stop")
    if alarms.get("alarm_steps", 1) < 1:
        raise UserError(f"ssl_conf alarm_steps: {alarms['alarm_steps']}: expected at least 1")
    known = _defaults(name)
    unknown = sorted(set(options) - set(known))
    others = {key for other in OBJECTIVES for key in _defaults(other)}
    if set(unknown) - others:
        unknown = sorted(set(unknown) - others)
        raise UserError(f"ssl_conf: {name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    if unknown:
        print(f"ssl_conf: {', '.join(unknown)}: no options of {name}, not read", flush=True)
        options = {key: value for key, value in options.items() if key in known}
    check_types("ssl_conf", options, known)
    objective = OBJECTIVES[name](model, feature_size(model, input_size), seed=seed, **options)
    for key, value in alarms.items():
        setattr(objective, key, value)
    return objective.to(next(model.parameters()).device)


def _defaults(name: str) -> dict:
    """Options of an objective with their defaults."""
    parameters = inspect.signature(OBJECTIVES[name]).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key not in _OURS}
