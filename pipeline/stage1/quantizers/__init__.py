"""Latents -> codes: one quantizer per file."""
