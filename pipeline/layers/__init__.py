"""Pure torch building blocks, one idea per file; no file here knows data, runs or ranks."""
