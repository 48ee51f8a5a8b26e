"""What `shards.verify` asks of a data set.

    report      findings, and remarks that count the samples they hold for
    pool        shards one by one, in this process or several
      shard     one shard and its extras, read once, front to back
        files   sizes, tar headers, digests
        values  what is strange in a decoded array
        sense   one sample: grid, place, time
        drift   quantiles by date and by source, in sketches that merge; steps finds breaks in them
        looks   64 bits of what an image looks like
    table       samples.parquet against the index; no grid cell in two splits
    duplicates  samples that are equal, or nearly

A shard gives a result whose size does not depend on its pixels; results merge in manifest order, so a
report is the same for any number of processes. Of each sample the whole keeps a few numbers.
"""
