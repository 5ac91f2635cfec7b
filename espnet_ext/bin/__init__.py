"""Command line entry points, one thin main a command: `python -m espnet_ext.bin.NAME --help`."""
