"""The report stage: model card, one-file HTML page and the few figures drawn for it."""
