"""Stack traces, chains and groups, and whose code it is (6.3 to 6.6)."""

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

from tests.error_tracking.conftest import ROOT, Wire, raised
from tests.error_tracking.exceptions import LooksLikeAGroup
from tests.error_tracking.wire import chain, frames, functions

# --- 6.3 stack traces ------------------------------------------------------------------------------------


@pytest.mark.rule("X-8")
def test_frames_go_from_the_entry_point_to_the_crash_site(wire: Wire) -> None:
    views = wire.module(
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
        properties = wire.capture(error)
    assert functions(properties)[1:] == ["checkout", "pay"]
    frame = frames(properties)[-1]
    assert frame == {
        "platform": "python",
        "filename": "shop/views.py",
        "abs_path": str(wire.directory / "shop" / "views.py"),
        "function": "pay",
        "module": "shop.views",
        "lineno": 3,
        "pre_context": ["def pay(order):", "    # just above"],
        "context_line": '    raise ValueError("no money")',
        "post_context": ["    # just below", "", "def checkout(order):", "    pay(order)"],
        "in_app": False,
    }


@pytest.mark.rule("X-8")
def test_filenames_are_relative_to_where_the_package_is(wire: Wire) -> None:
    source = "def fail():\n    raise ValueError\n"
    cases = {
        "top_level": "top_level.py",
        "shop.sub.deep": "shop/sub/deep.py",
    }
    for name, expected in cases.items():
        with pytest.raises(ValueError) as caught:
            wire.module(name, source).fail()
        assert frames(wire.capture(caught.value))[-1]["filename"] == expected
    (wire.directory / "shop" / "__init__.py").write_text(source)
    del sys.modules["shop"]
    with pytest.raises(ValueError) as caught:
        wire.module("shop.other", "from shop import fail\n").fail()
    assert frames(wire.capture(caught.value))[-1]["filename"] == "shop/__init__.py"


@pytest.mark.rule("X-8")
def test_pseudo_files_and_foreign_code_keep_their_names(wire: Wire) -> None:
    for filename, module, expected in [
        ("<string>", "shop.views", "<string>"),
        ("/srv/templates/page.html", "shop.views", "/srv/templates/page.html"),
        ("/srv/shop/views.pyc", "shop.views", "shop/views.py"),
        ("", "shop.views", "<unknown>"),
    ]:
        with pytest.raises(ZeroDivisionError) as caught:
            exec(compile("1/0", filename, "exec"), {"__name__": module})
        frame = frames(wire.capture(caught.value))[-1]
        assert frame["filename"] == expected
        assert "context_line" not in frame
        assert frame["lineno"] == 1
        if filename == "<string>":
            assert frame["abs_path"] == "<string>"


@pytest.mark.rule("X-8")
def test_the_line_is_that_of_the_traceback_not_where_the_frame_is_now(wire: Wire) -> None:
    def fail() -> Exception:
        try:
            raise ValueError("here")
        except ValueError as error:
            _ = 1
            return error

    frame = frames(wire.capture(fail()))[-1]
    assert frame["context_line"].strip() == 'raise ValueError("here")'


@pytest.mark.rule("X-1")
def test_source_comes_out_of_a_zip_file(wire: Wire) -> None:
    archive = wire.directory / "code.zip"
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
    frame = frames(wire.capture(caught.value))[-1]
    assert frame["context_line"] == "    raise ValueError('in a zip')"
    assert frame["filename"] == "zipped/views.py"


@pytest.mark.rule("X-1")
def test_source_that_changed_or_went_away_is_not_shown(wire: Wire) -> None:
    client = wire.client()
    source = "def fail():\n    raise ValueError\n"
    same, edited, removed = (wire.module(name, source) for name in ("same", "edited", "removed"))
    time.sleep(0.02)  # file times are coarser than clocks
    (wire.directory / "same.py").write_text(source)
    (wire.directory / "edited.py").write_text("import os\n" + source)
    (wire.directory / "removed.py").unlink()
    shown = []
    for module in (same, edited, removed):
        with pytest.raises(ValueError) as caught:
            module.fail()
        client.capture_exception(caught.value)
        shown.append(frames(wire.exceptions()[-1])[-1].get("context_line"))
    assert shown == ["    raise ValueError", None, None]
    for field in ("pre_context", "post_context"):
        assert field not in frames(wire.exceptions()[1])[-1]


@pytest.mark.rule("X-1")
def test_a_line_beyond_the_end_has_no_source(wire: Wire) -> None:
    module = wire.module("short", "def fail():\n    raise ValueError\n")
    module.fail.__code__ = module.fail.__code__.replace(co_firstlineno=500)
    with pytest.raises(ValueError) as caught:
        module.fail()
    assert "context_line" not in frames(wire.capture(caught.value))[-1]


@pytest.mark.rule("X-2")
def test_source_lines_keep_their_indentation_and_are_cut(wire: Wire) -> None:
    long = "ä" * 2000
    module = wire.module("wide", f"def fail():\r\n\traise ValueError  # {long}\r\n")
    with pytest.raises(ValueError) as caught:
        module.fail()
    frame = frames(wire.capture(caught.value))[-1]
    assert frame["pre_context"] == ["def fail():"]
    assert frame["context_line"].startswith("\traise ValueError  # ä")
    assert frame["context_line"].endswith("ä...")
    assert 1020 <= len(frame["context_line"].encode()) <= 1024


@pytest.mark.rule("X-3")
def test_frames_may_hide_themselves(wire: Wire) -> None:
    class Loud:
        def __bool__(self) -> bool:
            raise AssertionError("was asked")

    def crash() -> None:
        raise ValueError

    def hidden() -> None:
        __tracebackhide__ = True
        crash()

    def hidden_too() -> None:
        __traceback_hide__ = "yes"
        hidden()

    def hidden_without_being_asked() -> None:
        __tracebackhide__ = Loud()
        hidden_too()

    def shown() -> None:
        __tracebackhide__ = False
        hidden_without_being_asked()

    with pytest.raises(ValueError) as caught:
        shown()
    assert functions(wire.capture(caught.value))[1:] == ["shown", "crash"]


@pytest.mark.rule("X-4")
def test_an_existing_traceback_is_used_as_it_is(wire: Wire) -> None:
    error = raised(ValueError("x"))
    properties = wire.capture(error)
    assert functions(properties) == ["raised"]
    assert properties["$exception_list"][0]["mechanism"]["synthetic"] is False


@pytest.mark.rule("X-5")
def test_an_exception_that_was_never_raised_shows_the_current_stack(wire: Wire) -> None:
    error, cause = ValueError("by hand"), KeyError("never raised")
    error.__cause__ = cause
    properties = wire.capture(error)
    here = "test_an_exception_that_was_never_raised_shows_the_current_stack"
    assert functions(properties)[-4:] == [here, "capture", "sent_by", "<lambda>"]
    assert not any(frame.get("module", "").startswith("leanbase") for frame in frames(properties))
    first, nested = properties["$exception_list"]
    assert first["mechanism"]["synthetic"] is True
    assert nested["mechanism"]["synthetic"] is False
    assert "stacktrace" not in nested
    assert error.__traceback__ is None


@pytest.mark.rule("X-6")
def test_of_a_deep_traceback_the_ends_are_kept(wire: Wire) -> None:
    def deep(level: int) -> None:
        if level == 0:
            raise ValueError
        deep(level - 1)

    with pytest.raises(ValueError) as caught:
        deep(500)
    shown = frames(wire.capture(caught.value, capture_exception_code_variables=True))
    levels = [
        int(each["code_variables"]["level"]) for each in shown if "level" in each.get("code_variables", {})
    ]
    assert len(shown) == 100
    assert levels[-75:] == list(range(74, -1, -1))
    assert levels[1:24] == list(range(499, 476, -1))


@pytest.mark.rule("X-7")
def test_reading_frames_runs_no_code_of_the_application(wire: Wire) -> None:
    ran: list[str] = []

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            ran.append(f"class {name}")
            return super().__getattribute__(name)

    class Loud(metaclass=Meta):
        def __getattribute__(self, name: str) -> Any:
            ran.append(name)
            return super().__getattribute__(name)

        def __repr__(self) -> str:
            ran.append("repr")
            return "loud"

    class Namespace(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            if key.startswith("__traceback"):
                ran.append(key)
            return super().__getitem__(key)

    def fail(loud: Loud) -> None:
        raise ValueError

    with pytest.raises(ValueError) as caught:
        exec("fail(loud)", {"__name__": "ns"}, Namespace(fail=fail, loud=Loud()))
    ran.clear()
    properties = wire.capture(caught.value)
    assert functions(properties)[-2:] == ["<module>", "fail"]
    assert ran == []


# --- 6.4 mechanism, 6.5 chains ---------------------------------------------------------------------------


@pytest.mark.rule("X-10")
def test_mechanisms_say_what_is_known_and_nothing_else(wire: Wire) -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error
    except ValueError as error:
        first, second = wire.capture(error)["$exception_list"]
    assert first["mechanism"] == {"type": "generic", "handled": True, "synthetic": False, "exception_id": 0}
    assert second["mechanism"] == {
        "type": "chained", "source": "cause", "synthetic": False, "exception_id": 1, "parent_id": 0,
    }  # fmt: skip


@pytest.mark.rule("X-15")
def test_causes_beat_contexts_and_none_contributes_nothing(wire: Wire) -> None:
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
        assert chain(wire.capture(caught.value)) == links


@pytest.mark.rule("X-15", "X-16")
def test_members_of_a_group_follow_it_each_with_its_own_cause(wire: Wire) -> None:
    # From Python 3.11 on, exceptiongroup's is the built-in one.
    for group in (LooksLikeAGroup, exceptiongroup.ExceptionGroup):
        first, second = ValueError("first"), TypeError("second")
        first.__cause__ = KeyError("cause of the first")
        error = group("several", [first, second])
        error.__cause__ = OSError("cause of all")
        properties = wire.capture(error)
        assert [(source, parent) for _, source, parent in chain(properties)] == [
            (None, None), ("cause", 0), ("member", 0), ("cause", 2), ("member", 0),
        ]  # fmt: skip
        assert properties["$exception_list"][0]["mechanism"]["is_exception_group"] is True
        assert [item["type"] for item in properties["$exception_list"]][1:] == [
            "OSError", "ValueError", "KeyError", "TypeError",
        ]  # fmt: skip


@pytest.mark.rule("X-15")
def test_what_only_looks_a_little_like_a_group_is_none(wire: Wire) -> None:
    for held in ("text", [1, 2], [ValueError(), 3], {"a": ValueError()}, None, ValueError):
        assert len(wire.capture(LooksLikeAGroup("no group", held))["$exception_list"]) == 1


@pytest.mark.rule("X-17")
def test_cycles_end_and_nothing_appears_twice(wire: Wire) -> None:
    a, b = ValueError("a"), ValueError("b")
    a.__cause__, b.__cause__ = b, a
    assert [each[0] for each in chain(wire.capture(a))] == ["a", "b"]
    shared = KeyError("shared")
    group = LooksLikeAGroup("group", [shared, shared])
    group.__cause__ = shared
    assert len(wire.capture(group)["$exception_list"]) == 2
    own = ValueError("own")
    own.__context__ = own
    assert len(wire.capture(own)["$exception_list"]) == 1


@pytest.mark.rule("X-18")
def test_long_chains_are_cut_after_fifty(wire: Wire) -> None:
    error: BaseException = ValueError(0)
    for number in range(1, 10_000):
        outer = ValueError(number)
        outer.__context__ = error
        error = outer
    values = [item["value"] for item in wire.capture(error)["$exception_list"]]
    assert values == [str(number) for number in range(9_999, 9_949, -1)]
    many = LooksLikeAGroup("many", [ValueError(number) for number in range(10_000)])
    assert len(wire.capture(many)["$exception_list"]) == 50
    while error.__context__ is not None:  # a chain this long is not freed without recursion
        error = error.__context__


@pytest.mark.rule("X-19")
def test_each_exception_has_its_own_frames(wire: Wire) -> None:
    def inner() -> None:
        raise KeyError

    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            raise ValueError from error

    with pytest.raises(ValueError) as caught:
        outer()
    properties = wire.capture(caught.value)
    assert functions(properties)[-1] == "outer"
    assert functions(properties, 1) == ["outer", "inner"]


# --- 6.6 in_app ------------------------------------------------------------------------------------------


@pytest.mark.rule("X-20")
def test_the_first_rule_that_applies_decides_what_is_in_app(wire: Wire) -> None:
    project = wire.directory / "project"
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
        ("shop", str(wire.directory / "project2" / "shop.py")): False,
        ("runtime", "/var/runtime/bootstrap.py"): False,
    }
    client = wire.client(project_root=str(project), in_app_modules=["lib.own"])
    for (module, filename), expected in cases.items():
        with pytest.raises(ZeroDivisionError) as caught:
            exec(compile("1/0", filename, "exec"), {"__name__": module})
        client.capture_exception(caught.value)
        assert frames(wire.exceptions()[-1])[-1]["in_app"] is expected, (module, filename)


@pytest.mark.rule("X-20")
def test_the_project_is_the_working_directory_of_the_clients_creation(wire: Wire) -> None:
    os.chdir(wire.directory)
    try:
        client = wire.client(project_root=None)
    finally:
        os.chdir(ROOT)
    module = wire.module("own", "def fail():\n    raise ValueError\n")
    with pytest.raises(ValueError) as caught:
        module.fail()
    client.capture_exception(caught.value)
    assert [frame["in_app"] for frame in frames(wire.exceptions()[-1])] == [False, True]


@pytest.mark.rule("X-1")
def test_a_pseudo_file_shows_no_source_of_another_of_its_name(wire: Wire) -> None:
    """As `<string>` on Python 3.13, where linecache has what was given to `python -c`."""
    source = "1/0\n"
    linecache.cache["<string>"] = (len(source), None, source.splitlines(True), "<string>")
    try:
        for code, shown in (("1/0", True), ("2/0", False)):
            with pytest.raises(ZeroDivisionError) as caught:
                exec(compile(code, "<string>", "exec", dont_inherit=True), {"__name__": "shop.views"})
            assert ("context_line" in frames(wire.capture(caught.value))[-1]) == shown
    finally:
        del linecache.cache["<string>"]
