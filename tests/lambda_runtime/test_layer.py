"""The layer that `make layer` builds, under a function of AWS's emulator that has neither package of its own."""

from __future__ import annotations

import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.lambda_runtime.conftest import Start
from tests.lambda_runtime.emulator import ROOT
from tests.support.events import received_names
from tests.support.fault_server import FaultServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux binary"),
]


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = tmp_path_factory.mktemp("layer") / "leanbase-layer.zip"
    subprocess.run([sys.executable, "-m", "scripts.layer", str(archive)], check=True, cwd=ROOT)
    return archive


def test_the_layer_holds_the_package_and_urllib3_for_all_users(layer: Path) -> None:
    with zipfile.ZipFile(layer) as archive:
        assert {name.split("/")[1].partition("-")[0] for name in archive.namelist()} == {
            "leanbase",
            "urllib3",
        }
        assert all(name.startswith("python/") for name in archive.namelist())
        assert {stat.S_IMODE(each.external_attr >> 16) for each in archive.infolist()} == {0o644}


def test_a_function_without_a_package_of_its_own_runs_with_the_layer(
    layer: Path, start: Start, server: FaultServer, tmp_path: Path
) -> None:
    with zipfile.ZipFile(layer) as archive:
        archive.extractall(tmp_path)
    emulator = start(
        "leanbase.auto.handler",
        PYTHONPATH=str(tmp_path / "python"),
        LEANBASE_LAMBDA_HANDLER="plain.origins.handler",
    )
    modules = emulator.invoke({}).body
    for name, (file, compiled) in modules.items():
        assert file == str(tmp_path / "python" / name / "__init__.py")
        assert Path(compiled).exists(), "it need not be compiled at a cold start"
    assert received_names(server) == ["in the layer"]
