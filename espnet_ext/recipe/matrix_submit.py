"""A matrix as jobs: an array a stage that rows share, an array a level of rows, one job that chooses."""

from espnet_ext.errors import UserError
from espnet_ext.recipe.lock import SHARED
from espnet_ext.recipe.matrix import FINISH, LAST_SHARED, Matrix, Step
from espnet_ext.recipe.preflight import submit_preflight
from espnet_ext.recipe.state import DONE
from espnet_ext.recipe.submit import refuse_if_in_use


class MatrixSubmission:
    """Hands a matrix to Slurm."""

    def __init__(self, matrix: Matrix):
        """Nothing is submitted yet."""
        self.matrix, self.driver = matrix, matrix.driver
        self.submitter = self.driver.submitter()

    def submit(self) -> int:
        """Submit what is not done; returns the exit status.

        Raises:
            UserError: the matrix is in the queue, its GPU cap is less than one row needs, or Slurm refuses.
        """
        matrix, ngpu = self.matrix, int(self.driver.values["ngpu"])
        alive = self._alive()
        if twice := [record["job"] for record in alive if "steps" in record]:
            raise UserError(
                f"a matrix of this folder is in the queue already (jobs {' '.join(twice)}): wait for it "
                "(--status), or --cancel"
            )
        if matrix.plan.gpu_cap and matrix.plan.gpu_cap < ngpu:
            raise UserError(
                f"{matrix.file}: gpu_cap {matrix.plan.gpu_cap} is less than --ngpu {ngpu} of one row"
            )
        if not alive:
            refuse_if_in_use(self.driver.values)
        matrix.tell_changed()
        for driver in matrix.drivers.values():  # what needs the internet runs here, at once
            login = [stage for stage in driver.stages() if stage.login]
            if code := driver.run_here([s for s in login if driver.state_of(s).status().state != DONE]):
                return code
        groups = self._groups()
        if not groups:
            print("nothing to submit: all rows are done")
            return 0
        must: list[str] = []  # the last job without which nothing makes sense
        # Arrays: if one of their jobs fails, the others' experiments still go on. At first what else this
        # folder has in the queue, which may write the same files.
        ended = [record["job"] for record in alive]
        if self.driver.values["preflight"] == "true":
            record = submit_preflight(self.driver, self.submitter, matrix.records.folder, [])
            self._keep({**record, "unit": f"preflight of {matrix.file}", "steps": ["preflight"]})
            print(f"preflight: job {record['job']}, log {record['log']}", flush=True)
            must = [record["job"]]
        for steps in groups:
            record = self._keep(self._submit_steps(steps, must, ended))
            print(f"{_names(steps)}: job {record['job']}, log {record['log']}", flush=True)
            if len(steps) == 1 and steps[0].row is None:
                must = [record["job"]]
            else:
                ended = [record["job"]]
        return 0

    def _keep(self, record: dict) -> dict:
        """Each job is on record at once: the login shell may die before the last one is submitted."""
        self.matrix.records.add([record])
        return record

    def _alive(self) -> list[dict]:
        records = self.matrix.records.read()
        looks = self.submitter.look(records)
        return [record for record, each in zip(records, looks, strict=True) if _any(each)]

    def _groups(self) -> list[list[Step]]:
        """Steps that may run at the same time; a group waits for the one before."""
        matrix = self.matrix
        shared = [step for step in matrix.shared_steps() if not step.done()]
        starts = [step for step in matrix.start_steps() if not step.done()]
        rows = [matrix.to_do(level) for level in matrix.plan.levels]
        groups = [[s for s in shared if int(s.name[:2]) == number] for number in range(1, LAST_SHARED + 1)]
        groups = [group for group in [*groups, starts, *rows] if group]
        if groups:
            choice = Step(
                "choice", [*self.driver.arguments, "--submit=false"], {FINISH: "true"}, "decode", []
            )
            groups.append([choice])
        return groups

    def _submit_steps(self, steps: list[Step], must: list[str], ended: list[str]) -> dict:
        works = [self.submitter.work(self._job_command(step), step.progress) for step in steps]
        name = steps[0].name if len(steps) == 1 else f"{steps[0].name.split('@')[0]}.JOB"
        kind, gpu = steps[0].kind, self.matrix.gpus(steps[0])
        record = self.submitter.submit(
            works,
            f"{self.matrix.records.folder}/{name}.log",
            kind,
            threads=0 if gpu or kind == "train" else int(self.driver.values["nj"]),
            gpu=gpu,
            after=must,
            after_any=ended,
            at_once=self.matrix.plan.gpu_cap // max(1, gpu) if kind == "train" and len(steps) > 1 else 0,
        )
        names = [step.name for step in steps]
        return {**record, "unit": f"{self.matrix.file}: {' '.join(names)}", "steps": names}

    def _job_command(self, step: Step) -> list[str]:
        environment = step.environment if FINISH in step.environment else {SHARED: "true", **step.environment}
        words = [f"{name}={value}" for name, value in environment.items()]
        whose = step.row.name if step.row else "shared"
        used = ["python", "-m", "espnet_ext.bin.used", str(self.matrix.expdir), whose]
        command = [str(self.driver.template / "asr.sh"), *step.arguments, "--cmd_backend", "slurm"]
        return ["env", *words, *used, str(self.matrix.gpus(step)), *command]


def _any(looks) -> bool:
    return any(look.alive or look.state == "unknown" for look in looks)


def _names(steps: list[Step]) -> str:
    names = [step.name for step in steps]
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
