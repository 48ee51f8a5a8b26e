"""What a training run would need, before it takes a GPU: built on torch's meta device, without data.

assumed     a data set as the registry has it, where there is none
example     model and one micro-batch without memory behind them
costs       parameters, operations, memory per ZeRO stage
doctor      what a machine has, and what will not work on it
"""
