"""Stage 2: one masked multi-modal transformer over pixel patches and tokens.

layout     which streams there are, their places and vocabularies
masking    which tokens of a sample are seen and which are asked for
samples    shards -> masked samples -> batches
model      the encoder-decoder
loss       what any model with features of target slots is taught by
artifact   a trained model in a folder; `adopt` makes one of TerraMind's and 4M's, `export` one for others
encoder    the encoder of such a folder as a plain module; `terratorch_backbone` for TerraTorch
warm_start going on from such a folder
objective  all of it as the training loop sees it
"""
