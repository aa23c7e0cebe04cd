"""How a character is asked for, in words."""

# `given`: by whoever drew the pictures, which were scored as folders.
MODE_WORDS = {
    "name": "by name",
    "core_tags": "by name and core tags",
    "new_artist": "by name, with an artist held out of training",
    "given": "given pictures",
}
