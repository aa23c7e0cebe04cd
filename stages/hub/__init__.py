"""The Hugging Face hub: files of a repository at one commit of it, checked by sha256."""
