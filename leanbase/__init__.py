"""Product analytics and error tracking for serverless Python: every event is delivered, or accounted for.

    import leanbase

    leanbase.api_key = "phc_..."
    leanbase.host = "https://leanbase.example.com"

    @leanbase.lambda_handler
    def handler(event, context):
        leanbase.capture("order created", distinct_id="user_1", properties={"total": 42})

The functions of this module are the methods of one default client. Its options are attributes of this
module. The client reads them when it is first used; `leanbase.settings.Settings` lists them.
"""

from __future__ import annotations

import sys as _sys
from types import ModuleType as _ModuleType

from ._version import __version__
from .client import Client, Leanbase
from .default import default_client as _default
from .handlers import install_sigterm_handler, job, lambda_handler, record_context
from .transports.receipt import Receipt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .diagnosis import Diagnosis

__all__ = [
    "Client",
    "Leanbase",
    "Receipt",
    "__version__",
    "alias",
    "capture",
    "capture_exception",
    "delivery_scope",
    "doctor",
    "evaluate_flags",
    "feature_enabled",
    "feature_flag_definitions",
    "flush",
    "get_all_flags",
    "get_all_flags_and_payloads",
    "get_context_device_id",
    "get_context_distinct_id",
    "get_context_session_id",
    "get_distinct_id",
    "get_feature_flag",
    "get_feature_flag_payload",
    "get_feature_flag_result",
    "get_remote_config_payload",
    "get_tags",
    "group_identify",
    "identify",
    "identify_context",
    "install_sigterm_handler",
    "is_feature_enabled",
    "is_opted_out",
    "job",
    "lambda_handler",
    "load_feature_flags",
    "new_context",
    "opt_in",
    "opt_out",
    "record_context",
    "reset_group_properties_for_flags",
    "reset_person_properties_for_flags",
    "scoped",
    "set",
    "set_capture_exception_code_variables_context",
    "set_code_variables_detect_secrets_context",
    "set_code_variables_ignore_patterns_context",
    "set_code_variables_mask_patterns_context",
    "set_code_variables_mask_url_credentials_context",
    "set_context_device_id",
    "set_context_session",
    "set_group_properties_for_flags",
    "set_once",
    "set_person_properties_for_flags",
    "setup",
    "shutdown",
    "stats",
    "tag",
]

setup = _default.setup
capture = _default.capture
capture_exception = _default.capture_exception
set = _default.set
set_once = _default.set_once
identify = _default.identify
alias = _default.alias
group_identify = _default.group_identify
new_context = _default.new_context
scoped = _default.scoped
tag = _default.tag
get_tags = _default.get_tags
identify_context = _default.identify_context
set_context_session = _default.set_context_session
set_context_device_id = _default.set_context_device_id
set_capture_exception_code_variables_context = _default.set_capture_exception_code_variables_context
set_code_variables_mask_patterns_context = _default.set_code_variables_mask_patterns_context
set_code_variables_ignore_patterns_context = _default.set_code_variables_ignore_patterns_context
set_code_variables_mask_url_credentials_context = _default.set_code_variables_mask_url_credentials_context
set_code_variables_detect_secrets_context = _default.set_code_variables_detect_secrets_context
get_distinct_id = _default.get_distinct_id
get_context_distinct_id = _default.get_context_distinct_id
get_context_session_id = _default.get_context_session_id
get_context_device_id = _default.get_context_device_id
evaluate_flags = _default.evaluate_flags
get_feature_flag_result = _default.get_feature_flag_result
get_feature_flag = _default.get_feature_flag
get_feature_flag_payload = _default.get_feature_flag_payload
feature_enabled = _default.feature_enabled
is_feature_enabled = _default.is_feature_enabled
get_all_flags = _default.get_all_flags
get_all_flags_and_payloads = _default.get_all_flags_and_payloads
get_remote_config_payload = _default.get_remote_config_payload
load_feature_flags = _default.load_feature_flags
feature_flag_definitions = _default.feature_flag_definitions
set_person_properties_for_flags = _default.set_person_properties_for_flags
set_group_properties_for_flags = _default.set_group_properties_for_flags
reset_person_properties_for_flags = _default.reset_person_properties_for_flags
reset_group_properties_for_flags = _default.reset_group_properties_for_flags
delivery_scope = _default.delivery_scope
flush = _default.flush
shutdown = _default.shutdown
stats = _default.stats
opt_out = _default.opt_out
opt_in = _default.opt_in
is_opted_out = _default.is_opted_out


def doctor(*, send: bool = False) -> Diagnosis:
    """Check each step of the delivery of an event, and explain how to mend the steps that fail.

    It reads the settings as the default client would: attributes of this module, then the environment. It
    checks the key, the host, host name resolution, the connection, TLS, the proxy, the endpoint and the
    clock. If the settings use them, it also checks the queue and its credentials, the spool directory and
    flag definitions.

    Blocks for 12 s at most. Never raises, and never shows a key. `leanbase doctor` prints the same.

    Args:
        send: Whether to send one event, `"leanbase doctor"`, without a person. Otherwise nothing is stored.

    Returns:
        The diagnosis. It is true if events arrive, as far as the steps can tell; `print` shows it as a table.

    Examples:
        >>> import leanbase
        >>> diagnosis = leanbase.doctor()
        >>> diagnosis.steps[0].name
        'settings'
    """
    from .diagnosis import diagnose

    return diagnose(send=send)


if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from .settings import BeforeSend, FlagDefinitions, OnError, Transport

    # Options of the default client, for type checkers and editors. A test compares them with `Settings`.
    api_key: str | None
    host: str | None
    project_api_key: str | None
    transport: str | Transport
    fallback: str | Transport | None
    queue_url: str | None
    spool_directory: str | None
    spool_fsync: bool
    spool_max_bytes: int
    sigterm_grace: float | None
    disabled: bool
    debug: bool
    send: bool
    sync_mode: bool
    flush_at: int
    flush_interval: float
    max_queue_size: int
    max_queue_bytes: int
    max_retries: int
    timeout: float
    send_deadline: float
    gzip: bool | None
    before_send: BeforeSend | Sequence[BeforeSend] | None
    on_error: OnError | None
    secret_key: str | None
    flag_definitions: FlagDefinitions | None
    flags_ttl: float
    flags_max_age: float
    flags_timeout: float
    flags_max_retries: int
    flags_only_evaluate_locally: bool
    super_properties: Mapping[str, Any] | None
    historical_migration: bool
    is_server: bool
    disable_geoip: bool
    opted_out: bool
    enable_exception_autocapture: bool
    enable_unraisable_exception_autocapture: bool
    enable_exception_autocapture_rate_limiting: bool
    exception_autocapture_bucket_size: int
    exception_autocapture_refill_rate: int
    exception_autocapture_refill_interval_seconds: float
    log_captured_exceptions: bool
    project_root: str | None
    in_app_modules: Sequence[str] | None
    capture_exception_code_variables: bool
    code_variables_mask_patterns: Sequence[str] | None
    code_variables_ignore_patterns: Sequence[str] | None
    code_variables_mask_url_credentials: bool
    code_variables_detect_secrets: bool
else:

    def __getattr__(name: str) -> Any:
        """Return an option that was not set on the module: from the environment, or its default."""
        from .settings import effective

        return effective(name)

    def __dir__() -> list[str]:
        """Return the public names and the options."""
        from .settings import option_names

        return sorted({*__all__, *option_names()})

    class _Module(_ModuleType):
        """This module, which warns when an option is set too late."""

        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            _default.note_set(name)

    _sys.modules[__name__].__class__ = _Module
