"""The one training loop and everything operational around it.

    loop        build, resume, train, commit, leave
    deepspeed   ZeRO behind four verbs        distributed   ranks, votes, reductions
    checkpoint  commit and resume             lifecycle     signals, run folder, lock
    optimizer   schedule   metrics            objective     what a stage must provide

No other room imports deepspeed or torch.distributed.
"""
