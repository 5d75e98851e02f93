"""The command `toco`: its grammar, its verbs, and what a process of it sets up."""
