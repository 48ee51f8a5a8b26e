"""Top floor: who runs it, and where.

    plan        a run as data: steps, their outputs, what each waits for
    submit      plan -> local rank processes | this very process | Slurm jobs
    executors   ... in the foreground, started again as `restarts` decides
    slurm       ... as Slurm jobs of a snapshot of the code: through submitit, or plain sbatch
    status      every run under a folder, from its files alone

Nothing here imports torch: `python -m launch.submit --help` answers at once.
"""
