"""From an exception to a `$exception` event.

    subjects       what was given: an exception, a tuple, a string, the text of a traceback …
    chain          an exception with its causes, contexts and group members, flattened
    frames         tracebacks and stacks as the frames of the wire, with `source` around each line
    variables      the variables of a frame, as `redaction` lets them be seen
    builder        all of these as `$exception_list`; knows nothing of clients, contexts or boundaries
    metadata       what each boundary says about its exceptions: level, mechanism, source
    describer      the event's properties, by the settings of a client
    seen           which exceptions a client has captured already
    capture        what a client does with an exception: capture it, once
    shrink         makes an event smaller that is too large
    hooks          uncaught exceptions, with `rate_limit`

Loaded with the first exception, not with `import leanbase`. Nothing in here raises on what it is given,
changes it, or runs its code, but for the `str()` of an exception and what `variables` says.
"""
