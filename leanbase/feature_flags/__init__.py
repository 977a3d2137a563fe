"""Feature flags: evaluated locally by their definitions, or by the server.

    hashing        the hash of an id for a rollout, a variant and a holdout
    values         strings, numbers, timestamps and versions as the server reads them
    regexes        regular expressions that mean the same in Python and on the server
    operators      one function for each operator of a filter
    definitions    the flags of a project, each compiled at its first use
    evaluator      evaluates flags for one identity
    snapshot       `FeatureFlagEvaluations`: the values for one identity, and their records
    responses      all versions of the response of `/flags/`, as records
    remote         requests to `/flags/`: retries, circuit breaker
    exposures      `$feature_flag_called` and `$experiment_exposure`, each once
    sources        where definitions come from
    store          the current definitions: their age, one load at a time, one set for an invocation
    flags          the calls of a client: store, evaluator, remote, snapshot

The first call about flags imports this package. With `flag_definitions`, a Lambda handler imports it at a
cold start. It never raises into the application, and has no background thread.
"""

from .definitions import Definitions
from .operators import Reason as UnresolvedFlagReason
from .snapshot import FeatureFlagEvaluations, FeatureFlagResult
from .sources.base import DefinitionsSource, SourceError

__all__ = [
    "Definitions",
    "DefinitionsSource",
    "FeatureFlagEvaluations",
    "FeatureFlagResult",
    "SourceError",
    "UnresolvedFlagReason",
]
