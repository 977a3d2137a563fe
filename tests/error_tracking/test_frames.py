"""Frames and their source lines, chains and groups of exceptions, and which frames are `in_app`."""

from __future__ import annotations

import json
import linecache
import os
import sys
import time
import zipfile
from typing import Any

import exceptiongroup
import pytest

from tests.error_tracking.conftest import ROOT, RoundTrip, raised
from tests.error_tracking.exception_format import chain, frames, functions
from tests.error_tracking.exceptions import LooksLikeAGroup

# --- frames and their source -----------------------------------------------------------------------------


@pytest.mark.rule("X-8")
def test_frames_are_complete_and_end_with_the_crash_site(round_trip: RoundTrip) -> None:
    views = round_trip.write_and_import(
        "shop.views",
        """\
        def pay(order):
            # just above
            raise ValueError("no money")
            # just below

        def checkout(order):
            pay(order)
        """,
    )
    try:
        views.checkout(1)
    except ValueError as error:
        properties = round_trip.capture(error)
    assert functions(properties)[1:] == ["checkout", "pay"]
    frame = frames(properties)[-1]
    assert frame == {
        "platform": "python",
        "filename": "shop/views.py",
        "abs_path": str(round_trip.directory / "shop" / "views.py"),
        "function": "pay",
        "module": "shop.views",
        "lineno": 3,
        "pre_context": ["def pay(order):", "    # just above"],
        "context_line": '    raise ValueError("no money")',
        "post_context": ["    # just below", "", "def checkout(order):", "    pay(order)"],
        "in_app": False,
    }


@pytest.mark.rule("X-8")
def test_filenames_are_relative_to_the_directory_of_the_package(round_trip: RoundTrip) -> None:
    source = "def fail():\n    raise ValueError\n"
    cases = {
        "top_level": "top_level.py",
        "shop.sub.deep": "shop/sub/deep.py",
    }
    for name, expected in cases.items():
        with pytest.raises(ValueError) as caught:
            round_trip.write_and_import(name, source).fail()
        assert frames(round_trip.capture(caught.value))[-1]["filename"] == expected
    (round_trip.directory / "shop" / "__init__.py").write_text(source)
    del sys.modules["shop"]
    with pytest.raises(ValueError) as caught:
        round_trip.write_and_import("shop.other", "from shop import fail\n").fail()
    assert frames(round_trip.capture(caught.value))[-1]["filename"] == "shop/__init__.py"


@pytest.mark.rule("X-8")
def test_filenames_that_do_not_match_the_module_stay_as_they_are(round_trip: RoundTrip) -> None:
    for filename, module, expected in [
        ("<string>", "shop.views", "<string>"),
        ("/srv/templates/page.html", "shop.views", "/srv/templates/page.html"),
        ("/srv/shop/views.pyc", "shop.views", "shop/views.py"),
        ("", "shop.views", "<unknown>"),
    ]:
        with pytest.raises(ZeroDivisionError) as caught:
            exec(compile("1/0", filename, "exec"), {"__name__": module})
        frame = frames(round_trip.capture(caught.value))[-1]
        assert frame["filename"] == expected
        assert "context_line" not in frame
        assert frame["lineno"] == 1
        if filename == "<string>":
            assert frame["abs_path"] == "<string>"


@pytest.mark.rule("X-8")
def test_the_line_is_where_the_exception_was_raised_even_if_the_frame_went_on(round_trip: RoundTrip) -> None:
    def fail() -> Exception:
        try:
            raise ValueError("here")
        except ValueError as error:
            _ = 1
            return error

    frame = frames(round_trip.capture(fail()))[-1]
    assert frame["context_line"].strip() == 'raise ValueError("here")'


@pytest.mark.rule("X-1")
def test_source_is_read_from_a_zip_file(round_trip: RoundTrip) -> None:
    archive = round_trip.directory / "code.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped/__init__.py", "")
        file.writestr("zipped/views.py", "def fail():\n    raise ValueError('in a zip')\n")
    sys.path.insert(0, str(archive))
    try:
        import zipped.views  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(archive))
    with pytest.raises(ValueError) as caught:
        zipped.views.fail()
    frame = frames(round_trip.capture(caught.value))[-1]
    assert frame["context_line"] == "    raise ValueError('in a zip')"
    assert frame["filename"] == "zipped/views.py"


@pytest.mark.rule("X-1")
def test_source_that_was_changed_or_deleted_is_not_shown(round_trip: RoundTrip) -> None:
    client = round_trip.client()
    source = "def fail():\n    raise ValueError\n"
    same, edited, removed = (
        round_trip.write_and_import(name, source) for name in ("same", "edited", "removed")
    )
    time.sleep(0.02)  # a file's time is coarser than the clock, and must differ after the writes below
    (round_trip.directory / "same.py").write_text(source)
    (round_trip.directory / "edited.py").write_text("import os\n" + source)
    (round_trip.directory / "removed.py").unlink()
    shown = []
    for module in (same, edited, removed):
        with pytest.raises(ValueError) as caught:
            module.fail()
        client.capture_exception(caught.value)
        shown.append(frames(round_trip.exceptions()[-1])[-1].get("context_line"))
    assert shown == ["    raise ValueError", None, None]
    for field in ("pre_context", "post_context"):
        assert field not in frames(round_trip.exceptions()[1])[-1]


@pytest.mark.rule("X-1")
def test_source_of_another_file_with_the_same_relative_name_is_not_shown(round_trip: RoundTrip) -> None:
    (round_trip.directory / "relative.py").write_text("1 / 1\n")
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile("1 / 0", "relative.py", "exec"), {"__name__": "relative"})
    assert "context_line" not in frames(round_trip.capture(caught.value))[-1]


@pytest.mark.rule("X-1")
def test_a_line_number_beyond_the_end_of_the_file_has_no_source(round_trip: RoundTrip) -> None:
    module = round_trip.write_and_import("short", "def fail():\n    raise ValueError\n")
    module.fail.__code__ = module.fail.__code__.replace(co_firstlineno=500)
    with pytest.raises(ValueError) as caught:
        module.fail()
    assert "context_line" not in frames(round_trip.capture(caught.value))[-1]


@pytest.mark.rule("X-2")
def test_source_lines_keep_their_indentation_and_are_cut_at_1024_bytes(round_trip: RoundTrip) -> None:
    long = "ä" * 2000
    module = round_trip.write_and_import("wide", f"def fail():\r\n\traise ValueError  # {long}\r\n")
    with pytest.raises(ValueError) as caught:
        module.fail()
    frame = frames(round_trip.capture(caught.value))[-1]
    assert frame["pre_context"] == ["def fail():"]
    assert frame["context_line"].startswith("\traise ValueError  # ä")
    assert frame["context_line"].endswith("ä...")
    assert 1020 <= len(frame["context_line"].encode()) <= 1024


@pytest.mark.rule("X-3")
def test_frames_with_a_true_tracebackhide_are_left_out(round_trip: RoundTrip) -> None:
    class FailsOnBool:
        def __bool__(self) -> bool:
            raise AssertionError("__bool__ was called")

    def crash() -> None:
        raise ValueError

    def hidden_as_in_pytest() -> None:
        __tracebackhide__ = True
        crash()

    def hidden_as_in_paste() -> None:
        __traceback_hide__ = "yes"
        hidden_as_in_pytest()

    def hidden_by_an_object() -> None:
        __tracebackhide__ = FailsOnBool()
        hidden_as_in_paste()

    def shown() -> None:
        __tracebackhide__ = False
        hidden_by_an_object()

    with pytest.raises(ValueError) as caught:
        shown()
    assert functions(round_trip.capture(caught.value))[1:] == ["shown", "crash"]


@pytest.mark.rule("X-4")
def test_an_existing_traceback_is_used_as_it_is(round_trip: RoundTrip) -> None:
    error = raised(ValueError("x"))
    properties = round_trip.capture(error)
    assert functions(properties) == ["raised"]
    assert properties["$exception_list"][0]["mechanism"]["synthetic"] is False


@pytest.mark.rule("X-5")
def test_an_exception_that_was_never_raised_shows_the_current_stack(round_trip: RoundTrip) -> None:
    error, cause = ValueError("never raised"), KeyError("never raised")
    error.__cause__ = cause
    properties = round_trip.capture(error)
    here = "test_an_exception_that_was_never_raised_shows_the_current_stack"
    assert functions(properties)[-4:] == [here, "capture", "properties_from", "<lambda>"]
    assert not any(frame.get("module", "").startswith("leanbase") for frame in frames(properties))
    first, nested = properties["$exception_list"]
    assert first["mechanism"]["synthetic"] is True
    assert nested["mechanism"]["synthetic"] is False
    assert "stacktrace" not in nested
    assert error.__traceback__ is None


@pytest.mark.rule("X-6")
def test_a_deep_traceback_keeps_25_outermost_and_75_innermost_frames(round_trip: RoundTrip) -> None:
    def deep(level: int) -> None:
        if level == 0:
            raise ValueError
        deep(level - 1)

    with pytest.raises(ValueError) as caught:
        deep(500)
    shown = frames(round_trip.capture(caught.value, capture_exception_code_variables=True))
    levels = [
        int(each["code_variables"]["level"]) for each in shown if "level" in each.get("code_variables", {})
    ]
    assert len(shown) == 100
    assert levels[-75:] == list(range(74, -1, -1))
    assert levels[1:24] == list(range(499, 476, -1))


@pytest.mark.rule("X-7")
def test_reading_frames_does_not_run_code_of_the_application_or_import(round_trip: RoundTrip) -> None:
    ran: list[str] = []

    class RecordingMeta(type):
        def __getattribute__(cls, name: str) -> Any:
            ran.append(f"class {name}")
            return super().__getattribute__(name)

    class Recording(metaclass=RecordingMeta):
        def __getattribute__(self, name: str) -> Any:
            ran.append(name)
            return super().__getattribute__(name)

        def __repr__(self) -> str:
            ran.append("repr")
            return "recording"

    class RecordingNamespace(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            if key.startswith("__traceback"):
                ran.append(key)
            return super().__getitem__(key)

    def fail(argument: Recording) -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:
        exec("fail(argument)", {"__name__": "ns"}, RecordingNamespace(fail=fail, argument=Recording()))
    round_trip.capture(ValueError("the first capture imports the SDK's own modules"))
    ran.clear()
    loaded = set(sys.modules)
    properties = round_trip.capture(caught.value)
    assert set(sys.modules) == loaded
    assert functions(properties)[-2:] == ["<module>", "fail"]
    assert ran == []


# --- mechanisms, chains and groups -----------------------------------------------------------------------


@pytest.mark.rule("X-10")
def test_mechanisms_contain_known_fields_only(round_trip: RoundTrip) -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError as error:
        first, second = round_trip.capture(error)["$exception_list"]
    assert first["mechanism"] == {"type": "generic", "handled": True, "synthetic": False, "exception_id": 0}
    assert second["mechanism"] == {
        "type": "chained", "source": "cause", "synthetic": False, "exception_id": 1, "parent_id": 0,
    }  # fmt: skip


@pytest.mark.rule("X-15")
def test_a_cause_hides_the_context_and_from_none_hides_both(round_trip: RoundTrip) -> None:
    def with_context() -> None:
        try:
            raise KeyError("context")
        except KeyError:
            raise ValueError("outer")  # noqa: B904

    def with_cause() -> None:
        try:
            raise KeyError("context")
        except KeyError:
            raise ValueError("outer") from OSError("cause")

    def from_none() -> None:
        try:
            raise KeyError("context")
        except KeyError:
            raise ValueError("outer") from None

    expected = {
        with_context: [("outer", None, None), ("'context'", "context", 0)],
        with_cause: [("outer", None, None), ("cause", "cause", 0)],
        from_none: [("outer", None, None)],
    }
    for fail, links in expected.items():
        with pytest.raises(ValueError) as caught:
            fail()
        assert chain(round_trip.capture(caught.value)) == links


@pytest.mark.rule("X-15", "X-16")
def test_members_of_a_group_follow_it_and_each_is_followed_by_its_own_cause(round_trip: RoundTrip) -> None:
    # From Python 3.11 on, `exceptiongroup.ExceptionGroup` is the built-in class.
    for group in (LooksLikeAGroup, exceptiongroup.ExceptionGroup):
        first, second = ValueError("first"), TypeError("second")
        first.__cause__ = KeyError("cause of the first")
        error = group("several", [first, second])
        error.__cause__ = OSError("cause of all")
        properties = round_trip.capture(error)
        assert [(source, parent) for _, source, parent in chain(properties)] == [
            (None, None), ("cause", 0), ("member", 0), ("cause", 2), ("member", 0),
        ]  # fmt: skip
        assert properties["$exception_list"][0]["mechanism"]["is_exception_group"] is True
        assert [item["type"] for item in properties["$exception_list"]][1:] == [
            "OSError", "ValueError", "KeyError", "TypeError",
        ]  # fmt: skip


@pytest.mark.rule("X-15")
def test_an_exceptions_attribute_without_a_sequence_of_exceptions_is_not_a_group(
    round_trip: RoundTrip,
) -> None:
    for attribute in ("string", [1, 2], [ValueError(), 3], {"a": ValueError()}, None, ValueError):
        error = LooksLikeAGroup("not a group", attribute)
        assert len(round_trip.capture(error)["$exception_list"]) == 1


@pytest.mark.rule("X-17")
def test_cycles_end_and_no_exception_appears_twice(round_trip: RoundTrip) -> None:
    a, b = ValueError("a"), ValueError("b")
    a.__cause__, b.__cause__ = b, a
    assert [each[0] for each in chain(round_trip.capture(a))] == ["a", "b"]
    shared = KeyError("shared")
    group = LooksLikeAGroup("group", [shared, shared])
    group.__cause__ = shared
    assert len(round_trip.capture(group)["$exception_list"]) == 2
    own = ValueError("own")
    own.__context__ = own
    assert len(round_trip.capture(own)["$exception_list"]) == 1


@pytest.mark.rule("X-18")
def test_long_chains_and_large_groups_are_cut_after_fifty_exceptions(round_trip: RoundTrip) -> None:
    error: BaseException = ValueError(0)
    for number in range(1, 10_000):
        outer = ValueError(number)
        outer.__context__ = error
        error = outer
    values = [item["value"] for item in round_trip.capture(error)["$exception_list"]]
    assert values == [str(number) for number in range(9_999, 9_949, -1)]
    many = LooksLikeAGroup("many", [ValueError(number) for number in range(10_000)])
    assert len(round_trip.capture(many)["$exception_list"]) == 50
    while error.__context__ is not None:  # CPython would free a chain this long by recursion, and crash
        error = error.__context__


@pytest.mark.rule("X-19")
def test_each_exception_has_the_frames_of_its_own_traceback(round_trip: RoundTrip) -> None:
    def inner() -> None:
        raise KeyError

    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            raise ValueError from error

    with pytest.raises(ValueError) as caught:
        outer()
    properties = round_trip.capture(caught.value)
    assert functions(properties)[-1] == "outer"
    assert functions(properties, 1) == ["outer", "inner"]


# --- in_app ----------------------------------------------------------------------------------------------


@pytest.mark.rule("X-20")
def test_modules_then_locations_decide_which_frames_are_in_app(round_trip: RoundTrip) -> None:
    project = round_trip.directory / "project"
    cases = {
        ("lib.own", "/opt/site-packages/lib/own.py"): True,  # in in_app_modules
        ("lib.own.deeper", "<string>"): True,
        ("lib.owner", "/opt/site-packages/lib/owner.py"): False,
        ("shop", "<string>"): False,
        ("shop", ""): False,
        ("dep", str(project / ".venv" / "site-packages" / "dep.py")): False,
        ("dep", str(project / "dist-packages" / "dep.py")): False,
        ("dep", "C:\\project\\site-packages\\dep.py"): False,
        ("shop", str(project / "site-packages.py")): True,
        ("json.decoder", json.decoder.__file__): False,
        ("shop", str(project / "shop.py")): True,
        ("shop", str(round_trip.directory / "project2" / "shop.py")): False,
        ("runtime", "/var/runtime/bootstrap.py"): False,
    }
    client = round_trip.client(project_root=str(project), in_app_modules=["lib.own"])
    for (module, filename), expected in cases.items():
        with pytest.raises(ZeroDivisionError) as caught:
            exec(compile("1/0", filename, "exec"), {"__name__": module})
        client.capture_exception(caught.value)
        assert frames(round_trip.exceptions()[-1])[-1]["in_app"] is expected, (module, filename)


@pytest.mark.rule("X-20")
def test_the_default_project_root_is_the_working_directory_at_the_clients_creation(
    round_trip: RoundTrip,
) -> None:
    os.chdir(round_trip.directory)
    try:
        client = round_trip.client(project_root=None)
    finally:
        os.chdir(ROOT)
    module = round_trip.write_and_import("own", "def fail():\n    raise ValueError\n")
    with pytest.raises(ValueError) as caught:
        module.fail()
    client.capture_exception(caught.value)
    assert [frame["in_app"] for frame in frames(round_trip.exceptions()[-1])] == [False, True]


@pytest.mark.rule("X-1")
def test_source_of_another_pseudo_file_with_the_same_name_is_not_shown(round_trip: RoundTrip) -> None:
    """On Python 3.13, `linecache` has the program of `python -c` under the name `<string>`."""
    source = "1/0\n"
    linecache.cache["<string>"] = (len(source), None, source.splitlines(True), "<string>")
    try:
        for code, shown in (("1/0", True), ("2/0", False)):
            with pytest.raises(ZeroDivisionError) as caught:
                exec(compile(code, "<string>", "exec", dont_inherit=True), {"__name__": "shop.views"})
            assert ("context_line" in frames(round_trip.capture(caught.value))[-1]) == shown
    finally:
        del linecache.cache["<string>"]
