"""Training of rerankers: options, losses, the trainer and its provenance."""
