"""What a trained model knows with all of its inputs, without each, and with each alone.

subject   a trained model of either kind behind one face
inputs    which tokens of a sample are given
tokens    cross-entropy and accuracy per target
prior     the trivial guess of tokens
labels    what a sample can be classified as
probes    classifiers on frozen features
probing   how well they tell a label that samples carry
monitor   probes and generated sheets while a model trains
run       `python -m pipeline evaluate`
"""
