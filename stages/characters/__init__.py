"""Which characters are evaluated: references.json, and how its characters and posts are chosen from a booru's metadata."""
