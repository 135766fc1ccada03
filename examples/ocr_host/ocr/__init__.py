"""A small text detector for receipts: data, model, training module."""
