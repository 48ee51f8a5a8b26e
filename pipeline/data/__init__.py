"""Shards -> batches: who comes when (`order`), what is done to a sample (`transforms`), and the
thread that keeps batches coming (`loader`).

    position --Order--> (epoch, sample) --read, transform--> sample --collate--> batch

Everything random about a sample follows from (seed, position), so a batch depends on neither the
number of ranks nor on what was read before.
"""
