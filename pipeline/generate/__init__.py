"""Any modalities in, any others out: `sampler` draws tokens, `decode` turns them into maps and words,
`scores` holds them against the truth, `run` does it for a shard set and writes the results.
"""
