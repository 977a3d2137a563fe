import pytest

pytest.register_assert_rewrite("tests.error_tracking.wire")
