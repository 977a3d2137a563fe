"""Feature flags: evaluated here by definitions that functions share, or by the server.

    hashing        the place of an id in a flag, its variants and its holdout
    values         texts, numbers, moments and versions as the service reads them
    regexes        regular expressions that Python and the service read alike
    operators      one small function for each operator of a filter
    definitions    the flags of a project, compiled when one is first asked for
    evaluator      decides flags for one identity
    snapshot       `FeatureFlagEvaluations`: the answer for one identity, and its records
    responses      the answers of `/flags/` in all their shapes, as records
    remote         asks `/flags/`: request, retries, breaker
    exposures      `$feature_flag_called` and `$experiment_exposure`, each once
    sources        where definitions come from
    store          which definitions are current: their age, single flight, one set for an invocation
    flags          what the calls of a client do: store, evaluator, remote, snapshot

This package is imported with the first call about flags, and by a Lambda handler at a cold start if
`flag_definitions` is set. Nothing in it raises into the application, and no thread keeps anything fresh.
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
