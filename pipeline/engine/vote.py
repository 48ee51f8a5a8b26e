"""What the ranks agree on at each step."""


class Vote:
    """The loss of the global batch, signals and wishes, and how a save is doing.

    Each number is the sum of what the ranks said; the first value is made so that its sum is the mean
    loss of the batch.
    """

    def __init__(
        self, loss: float, stop: float, kill: float, save: float, busy: float, failed: float
    ):
        self.loss, self.busy, self.failed = loss, busy, failed
        self.stop, self.kill, self.save = stop > 0, kill > 0, save > 0
