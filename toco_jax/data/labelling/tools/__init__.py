"""Reads image-level labels from the files of annotation tools, one module per tool.

Each module has a pure function from the parsed content of a file to a `project.Project`.
`recognise` tells by the content which tool wrote a file, and `matching` finds the images that it
names.
"""
