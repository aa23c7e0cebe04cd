"""Why a post is not trained on, and what happened to one post."""
