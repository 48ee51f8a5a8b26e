"""MLP late fusion: the baseline that the masked transformer is compared with.

latents    what the frozen tokenizers of stage 1 say about every code
pooling    visible tokens of one modality -> one vector per target
combine    the vectors of all modalities -> one
model      all of it, and the loss of stage 2
objective  the same as the training loop sees it
artifact   a trained model as others use it
"""
