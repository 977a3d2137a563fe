"""Turns an exception into a `$exception` event.

    subjects       converts what the caller passed: an exception, a tuple, a string, a traceback string …
    chain          lists an exception with its causes, contexts and group members
    frames         converts tracebacks and stacks to the wire format; `source` adds the source lines
    variables      reads the local variables of each frame, redacted by `redaction`
    builder        builds `$exception_list` from these, without a client
    metadata       the level, mechanism and source of each boundary
    describer      builds the properties of the event, by the settings of a client
    seen           remembers which exceptions a client has captured
    capture        captures an exception once for each client
    shrink         shrinks an event that is too large
    hooks          captures uncaught exceptions, with `rate_limit`

This package is imported with the first exception, not with `import leanbase`. An odd or broken object must
not make it raise. It runs the code of such an object only for its message (`subjects`), the members of a
group (`chain`) and the `repr` of leaves (`variables`). It does not change objects, except for the mark that
`seen` sets.
"""
