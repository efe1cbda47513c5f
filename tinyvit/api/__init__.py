"""One function per command, for use from Python: ``tinyvit.label(...)`` and the others.

Each function has the names and the defaults of the options of its command.
"""

#: Public name of ``tinyvit`` -> the module that defines it.
HOME = {
    "label": "api.labels",
}
