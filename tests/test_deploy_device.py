"""Engines that are built on a GPU are for that GPU: a deploy on another one builds them anew."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from posedge.deploy import deploy
from posedge.options import DeployOptions
from posedge.progress import SilentProgress
from posedge.runtime import target
from posedge.runtime.bundle import open_bundle
from posedge.runtime.devices import Gpu, Gpus

STAND_INS = Path(__file__).parent / "engines" / "standins"  # a package ``tensorrt``
ORIN = Gpu("Orin", 87, 8 << 30)


class Listener(SilentProgress):
    """Keeps which stages were kept."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    def note(self, text: str) -> None:
        if "kept" in text:
            self.kept.append(text.split(":")[0])


def test_another_gpu_gets_another_engine(options: DeployOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = {"version": "10.3.0", "names": "10.3", "gpu": True, "device": "here", "dla_cores": 0}
    monkeypatch.setenv("TENSORRT_STAND_IN", json.dumps(setting))
    monkeypatch.syspath_prepend(STAND_INS)
    options = replace(options, precisions=("fp32",), limit=2)

    def deploy_on(gpu: Gpu) -> tuple[list[str], int, str | None]:
        monkeypatch.setattr(target, "gpus", lambda: Gpus((gpu,), "13.0", ""))
        listener = Listener()
        build = open_bundle(deploy(options, listener).directory).variant("fp32").built
        assert build is not None
        return listener.kept, build.target.sms[0], build.target.gpu

    assert deploy_on(ORIN) == ([], 87, "Orin")
    kept, *_ = deploy_on(ORIN)
    assert "engine fp32" in kept
    kept, *built_for = deploy_on(Gpu("RTX A2000", 86, 8 << 30))
    assert "export" in kept
    assert "engine fp32" not in kept
    assert built_for == [86, "RTX A2000"]
