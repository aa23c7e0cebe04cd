"""The metadata database in any of its forms, and posts with their tags read from it."""
