"""Turn an exception into a `$exception` event.

    subjects       what the caller passed: an exception, a tuple, a string, a formatted traceback …
    chain          an exception with its causes, contexts and group members, as a flat list
    frames         tracebacks and stacks as frames in the wire format; `source` adds the lines around each
    variables      the local variables of each frame, redacted by `redaction`
    builder        all of these as `$exception_list`; knows nothing of clients, contexts or boundaries
    metadata       what each boundary states about its exceptions: level, mechanism, source
    describer      the properties of the event, by the settings of a client
    seen           which exceptions a client has already captured
    capture        captures an exception once for each client
    shrink         makes an event smaller when it is too large
    hooks          captures uncaught exceptions, with `rate_limit`

This package is imported with the first exception, not with `import leanbase`. An odd or broken object does
not make it raise. It does not run the code of the objects it is given, with these exceptions: `subjects`
reads their messages, `chain` reads the members of a group, and `variables` calls `repr` on leaves. It does
not change the objects either, except for the mark that `seen` sets.
"""
