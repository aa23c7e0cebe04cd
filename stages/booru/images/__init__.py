"""Image archives and picture folders: the index, the reader, hashes and near-duplicates."""
