"""Training as somebody would submit it through submitit without our `launch`."""

from submitit.helpers import DelayedSubmission


class Training:
    """A command of `pipeline` that submitit may start again as it is."""

    def __init__(self, argv: list[str]):
        self.argv = argv

    def __call__(self) -> int:
        from pipeline.__main__ import main

        return main(self.argv)

    def checkpoint(self) -> DelayedSubmission:
        return DelayedSubmission(self)
