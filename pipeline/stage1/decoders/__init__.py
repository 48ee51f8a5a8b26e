"""Latents -> pixels: one decoder per file."""
