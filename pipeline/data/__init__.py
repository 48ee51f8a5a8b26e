"""Shards -> batches.

    selection   which samples, and the stream they come in       order, mixture   who comes when
    transforms  what is done to the pixels of a sample           pixels           batches of aligned maps
    loader      threads that keep batches coming                 tokens           shared token conventions

    position --stream--> sample --read, transform--> sample --collate--> batch

Everything random about a sample follows from (seed, position), so a batch depends on neither the
number of ranks or threads nor on what was read before.
"""
