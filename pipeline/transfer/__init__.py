"""Transfer: everything pretrained here, judged on downstream labels in the same way.

samples -> target, images -> adapted to the backbone -> features -> head -> metrics -> results.jsonl
"""
