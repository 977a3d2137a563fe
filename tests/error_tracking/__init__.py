import pytest

pytest.register_assert_rewrite("tests.error_tracking.exception_format")
