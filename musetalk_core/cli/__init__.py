"""The commands of `python -m musetalk_core`, one module each: add_parser(commands) and run(args)."""
