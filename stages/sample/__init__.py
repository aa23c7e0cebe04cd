"""The embedded sample: drawn by DiceBear's artists and from Ren'Py's sprites, in the form of a booru dump."""
