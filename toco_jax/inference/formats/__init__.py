"""Masks in the formats of other tools: one module for each format, and `writer` that drives them.

The module of a format has three pure functions:

    problem(names)            why the format cannot hold these class names, or ""
    of_picture(picture, task) the files of one picture, by their paths in the format's folder, and
                              the picture's entry: what the files of all pictures say about it
    of_all(entries, task)     the text of the files of all pictures, by path; it takes a function
                              that iterates over the entries, in the pictures' order

Texts come in pieces, so that the entries of many pictures never are in memory together. In the
formats that know instances, each connected component of a class is one.
"""
