"""What to change when Slurm refuses a job."""


def hint(why: str) -> str:
    """What to change so that Slurm takes a job that it refuses with these words; empty if not known."""
    hints = {
        "invalid partition": "see `sinfo` and `partition` in conf/slurm.yaml",
        "invalid account": "see `sacctmgr show associations user=$USER` and `account` in conf/slurm.yaml",
        "invalid qos": "see `qos` in conf/slurm.yaml",
        "node configuration": "no node has this many processors, GPUs or this much memory: see "
        "`sinfo -o '%P %c %m %G'`, "
        "and --nj, --ngpu, or cpus and mem in conf/slurm.yaml",
        "time limit": "the partition's longest time is in `sinfo -o '%P %l'`; see `time` in conf/slurm.yaml",
        "generic resource": "this cluster wants GPUs asked for in another way: see `gpu` in conf/slurm.yaml",
        "invalid feature": "see `constraint` in conf/slurm.yaml and `sinfo -o '%P %f'`",
        "memory": "see `mem` in conf/slurm.yaml",
    }
    found = [hint for text, hint in hints.items() if text in why.lower()]
    return f"; {found[0]}" if found else ""
