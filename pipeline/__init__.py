"""Third floor: what is learned. Shards in; tokenizers, tokens, a multi-modal transformer, maps out.

Inside, top to bottom: `__main__` > report > generate > stage1 | stage2 > engine > layers | data.
Only `engine/` knows DeepSpeed and torch.distributed.
"""
