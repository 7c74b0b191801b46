"""What does somebody see who types `bencher-job`?

    words -> parser -> Command -> stores, opened to look or to change -> tables, or one JSON document -> exit code

A command knows records and stores only, so it works on a cache whose code is gone. Each is a `Command`, and
`_command_line` has the list of them.
"""
