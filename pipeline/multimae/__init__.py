"""MultiMAE on Earth observation: one ViT over visible patches of all modalities, a decoder per task.

Bachmann et al. 2022, "MultiMAE"; Sosa et al. 2025, "MultiMAE Meets Earth Observation".

groups     which bands are patches of what size, and where they stand in the model's table
samples    windows -> what is seen of them -> batches
patches    a batch -> patches of each group, standardised
trunk      patch projections and the ViT
decoder    one task: queries of a group, cross-attention to all encoded tokens
model      trunk, decoders, and the training step
loss       errors of hidden patches, and held-out scores in physical units
objective  the same as the training loop sees it
across     scores of each group from the others alone
pictures   what a finished run shows: visible, reconstructed, true
artifact   a trained model as others use it
encoder    the trunk as a plain torch module: physical units in, features out
vit        weights to and from timm's VisionTransformer
"""
