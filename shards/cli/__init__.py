"""The commands of `python -m shards`, a file for each kind of work.

    build    plan, build, status                              make    stats, split, merge, add, repair
    look     verify, inspect, preview, bench                  output  tables, JSON, errors, common options

Nothing heavy is imported before a command runs: `--help` answers at once.
"""
