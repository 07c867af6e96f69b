"""Build options: what each library is asked for, and what it cannot do is refused and never ignored."""

import json
import os

import pytest

from posedge.engines import BatchProfile, BuildOptions, build_engine, check_options
from posedge.engines.flavours import FLAVOURS, flavour_named
from posedge.engines.messages import BuildRequest, decode_request, encode_request
from posedge.errors import BuildError

TENSORRT_ONLY = {
    "optimization_level": 4,
    "version_compatible": True,
    "hardware_compatible": True,
    "sparsity": True,
}
ONE = BatchProfile(1, 1, 1)


def calls(engine) -> list[list]:
    return json.loads(engine.read_text())["calls"]


def names(engine) -> list[str]:
    return [call[0] for call in calls(engine)]


@pytest.mark.parametrize("version", ["8.6.2", "10.3.0", "10.13.3", "11.4.1"])
def test_tensorrt_is_asked_for_each_option(version, stand_in, conv_chain, saved, out):
    stand_in(version)
    options = BuildOptions(workspace_bytes=1 << 30, **TENSORRT_ONLY)
    build_engine(saved(conv_chain("int8")), out / "model.engine", options)
    made = calls(out / "model.engine")
    assert not [call for call in made if "REFIT" in call]  # it would keep Q/DQ nodes from being fused
    for call in [
        ["IBuilderConfig.set_memory_pool_limit", "WORKSPACE", 1 << 30],
        ["IBuilderConfig.builder_optimization_level", 4],
        ["IBuilderConfig.hardware_compatibility_level", "AMPERE_PLUS"],
        ["IBuilderConfig.set_flag", "VERSION_COMPATIBLE"],
        ["IBuilderConfig.set_flag", "SPARSE_WEIGHTS"],
    ]:
        assert call in made
    # InstanceNormalization as a plugin would tie the engine to this version; later ones know
    assert (["OnnxParser.set_flag", "NATIVE_INSTANCENORM"] in made) == version.startswith("8")


@pytest.mark.parametrize("version", ["8.6.2", "11.4.1"])
def test_nothing_is_asked_for_that_was_not_given(version, stand_in, conv_chain, saved, out):
    stand_in(version)
    build_engine(saved(conv_chain()), out / "model.engine")
    assert {name for name in names(out / "model.engine") if name.startswith("IBuilderConfig")} <= {
        "IBuilderConfig.add_optimization_profile",
        "IBuilderConfig.profiling_verbosity",
        "IBuilderConfig.progress_monitor",
    }


def test_the_dla_lists_the_layers_that_fall_back(stand_in, conv_chain, saved, out):
    stand_in("10.3.0", dla_cores=2)
    result = build_engine(saved(conv_chain("fp16")), out / "model.engine", BuildOptions(ONE, dla_core=1))
    assert result.gpu_layers == ("relu0", "relu1", "relu2")
    made = calls(out / "model.engine")
    assert ["IBuilderConfig.default_device_type", "DLA"] in made
    assert ["IBuilderConfig.DLA_core", 1] in made
    assert ["IBuilderConfig.set_flag", "GPU_FALLBACK"] in made


def test_the_dla_is_asked_after_the_precision_is_set(stand_in, conv_chain, saved, out):
    """Before strong typing the answer depends on the flag FP16."""
    stand_in("8.6.2", dla_cores=2)
    result = build_engine(saved(conv_chain("fp16")), out / "model.engine", BuildOptions(ONE, dla_core=0))
    assert result.gpu_layers == ("relu0", "relu1", "relu2")


@pytest.mark.parametrize(
    ("cores", "words"), [(0, "this device has no DLA"), (1, "core 0 only"), (2, "cores 0 to 1")]
)
def test_a_dla_core_that_is_not_there_is_refused(cores, words, stand_in, conv_chain, saved, out):
    stand_in("11.4.1", dla_cores=cores)
    with pytest.raises(BuildError, match=rf"tensorrt 11\.4\.1: DLA core 2 was asked for, .*{words}"):
        build_engine(saved(conv_chain("fp16")), out / "model.engine", BuildOptions(ONE, dla_core=2))


def test_a_float32_graph_for_the_dla_is_refused(stand_in, conv_chain, saved, out):
    stand_in("10.3.0", dla_cores=1)
    with pytest.raises(BuildError, match=r"none of the graph's 6 layers can run on the DLA.*float16 graph"):
        build_engine(saved(conv_chain()), out / "model.engine", BuildOptions(ONE, dla_core=0))
    assert os.listdir(out) == []


def test_tensorrt_refuses_target_sms(stand_in, conv_chain, saved, out):
    stand_in("10.3.0")
    with pytest.raises(BuildError, match=r"tensorrt 10\.3\.0 has no target sms: it builds for the GPU of"):
        build_engine(saved(conv_chain()), out / "model.engine", BuildOptions(target_sms=(86,)))


@pytest.mark.parametrize(
    ("field", "value"), [*TENSORRT_ONLY.items(), ("timing_cache", "times.cache"), ("dla_core", 0)]
)
def test_rtx_refuses_what_it_would_ignore(field, value):
    with pytest.raises(BuildError, match=rf"tensorrt_rtx 1\.7\.1 has no {field.replace('_', ' ')}: "):
        flavour_named("tensorrt_rtx").check("1.7.1", BuildOptions(ONE, **{field: value}))


def test_every_reason_is_for_an_option_that_there_is():
    fields = set(BuildOptions.__dataclass_fields__)
    for flavour in FLAVOURS:
        for release in flavour.releases:
            assert set(release.cannot) <= fields


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"workspace_bytes": 0}, "workspace of 0 bytes"),
        ({"optimization_level": 6}, "optimization level 6: choose one from 0 to 5"),
        ({"optimization_level": -1}, "optimization level -1"),
        ({"target_sms": (86, 86)}, "each compute capability once"),
        ({"target_sms": (-1,)}, "target SMs -1"),
        ({"dla_core": -1}, "counted from 0"),
        ({"dla_core": 0}, "one batch size only, the profile asks for 1 to 32"),
    ],
)
def test_values_that_no_library_takes_are_refused(given, words):
    with pytest.raises(BuildError, match=words):
        BuildOptions(**given)


def test_options_arrive_in_the_child_as_they_were_given(tmp_path):
    options = BuildOptions(ONE, 1 << 30, 5, tmp_path / "times", True, True, 0, (86, 89), True)
    request = BuildRequest("graph", "engine", ("tensorrt",), options, 1, 1 << 30)
    assert decode_request(encode_request(request)) == request


def test_the_key_holds_what_decides_the_engine():
    """The timing cache only saves time, and the order of targets changes nothing."""
    plain, ordered = BuildOptions(), BuildOptions(target_sms=(89, 86))
    assert BuildOptions(timing_cache="times").key() == plain.key()
    assert ordered.key() == BuildOptions(target_sms=(86, 89)).key() != plain.key()
    json.dumps(ordered.key())


class TestTensorRTRTX:
    """The real builder."""

    @pytest.fixture(autouse=True)
    def _library(self):
        pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")

    def test_target_sms_are_in_the_engine(self, conv_chain, saved, out):
        graph = saved(conv_chain())
        engines = {}
        for name, sms in {"portable": (), "one": (86,), "two": (86, 120), "turned": (120, 86)}.items():
            build_engine(graph, out / name, BuildOptions(target_sms=sms), flavour="tensorrt_rtx")
            engines[name] = (out / name).read_bytes()
        assert len(set(engines.values())) == 3
        assert engines["two"] == engines["turned"]

    def test_an_sm_that_it_does_not_know_is_refused(self, conv_chain, saved, out):
        with pytest.raises(BuildError, match=r"cannot build for SM 87; it has 75, 80, 86, 89, 120, 121"):
            build_engine(
                saved(conv_chain()), out / "engine", BuildOptions(target_sms=(86, 87)), flavour="tensorrt_rtx"
            )

    def test_the_workspace_is_a_limit(self, conv_chain, saved, out):
        graph = saved(conv_chain())
        with pytest.raises(BuildError, match="workspace"):
            build_engine(graph, out / "engine", BuildOptions(workspace_bytes=1 << 10), flavour="tensorrt_rtx")
        build_engine(graph, out / "engine", BuildOptions(workspace_bytes=1 << 30), flavour="tensorrt_rtx")

    def test_its_targets_are_those_of_the_table(self):
        import tensorrt_rtx

        members = tensorrt_rtx.ComputeCapability.__members__
        known = tuple(sorted(int(name[2:]) for name in members if name.startswith("SM")))
        assert flavour_named("tensorrt_rtx").release(tensorrt_rtx.__version__).target_sms == known

    def test_an_option_is_refused_before_any_work(self):
        check_options(BuildOptions(target_sms=(86,)), "tensorrt_rtx")
        with pytest.raises(BuildError, match="has no sparsity"):
            check_options(BuildOptions(sparsity=True), "tensorrt_rtx")
