"""Stage 1: one tokenizer per modality, and the tokens of a whole shard set.

image, class map    encoder -> FSQ -> decoder, trained (`tokenizer`, `objective`)
text                WordPiece, trained on the shards' texts (`text`)
coordinates, date   fixed tokens, nothing to train (`place_time`)
"""
