"""``--matrix FILE``: run its rows one after the other, submit them, show or cancel them."""

import os
import shlex

from espnet_ext.errors import RUN_AGAIN
from espnet_ext.processes import run_through
from espnet_ext.recipe.grid import Grid
from espnet_ext.recipe.matrix import FINISH, Matrix, Step
from espnet_ext.recipe.matrix_submit import MatrixSubmission
from espnet_ext.recipe.usage import Usage


class MatrixRun:
    """One call of the driver with a matrix."""

    def __init__(self, driver):
        """Read the matrix.

        Raises:
            UserError: the file is not as `plan` says.
        """
        self.driver, self.matrix = driver, Matrix(driver)

    def run(self) -> int:
        """Do what the command line says."""
        values = self.driver.values
        if values["cancel"] == "true":
            jobs = self.driver.submitter().cancel(self.matrix.mine())
            print(f"cancelled: {' '.join(jobs)}" if jobs else "nothing of this matrix is in the queue")
            return 0
        if values["status"] == "true":
            Grid(self.matrix).show()
            return 0
        if values["dry_run"] == "true":
            shared = [*self.matrix.shared_steps(), *self.matrix.start_steps()]
            for step in [*shared, *map(self.matrix.row_step, self.matrix.plan.rows)]:
                print(f"{step.name}: {shlex.join(['./asr.sh', *step.arguments])}")
            return 0
        if FINISH in os.environ:
            return Grid(self.matrix).finish()
        if values["submit"] == "true":
            with self.matrix.records.locked():
                return MatrixSubmission(self.matrix).submit()
        return self._run_here()

    def _run_here(self) -> int:
        """All of it on this machine (or wherever the back end waits for), one after the other."""
        self.matrix.tell_changed()
        for step in [*self.matrix.shared_steps(), *self.matrix.start_steps()]:
            if not step.done() and (code := self._call(step)):
                return code
        worst = 0
        for step in (step for level in self.matrix.plan.levels for step in self.matrix.to_do(level)):
            print(f"== {step.name}", flush=True)
            code = self._call(step)
            if code == RUN_AGAIN or code > 128:
                return code
            if code:
                print(f"{step.name} failed (status {code}); the other rows go on", flush=True)
                worst = worst or code
        return Grid(self.matrix).finish() or worst

    def _call(self, step: Step) -> int:
        command = [str(self.driver.template / "asr.sh"), *step.arguments]
        with Usage(self.matrix.expdir, step.row.name if step.row else "shared", self.matrix.gpus(step)):
            return run_through(command, {**os.environ, **step.environment})
