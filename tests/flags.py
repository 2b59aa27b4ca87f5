"""Flags as they are typed."""


def flags(**values):
    """Words of a command line; a tuple is several, and of what is true or false there is no second word."""
    found = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found += [f"--{flag}", *map(str, value if isinstance(value, tuple) else (value,))]
    return found
