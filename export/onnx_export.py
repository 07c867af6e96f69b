"""A torch model, or somebody's ONNX file, becomes the ONNX graph that every later stage starts from."""

import copy
import gc
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from onnx import ModelProto, TensorProto

from ..errors import GraphError
from ..memory import large_blocks_returned
from ..progress import SILENT, Progress, Task
from ..runtime.spec import ModelSpec
from .graph_options import PLAIN, GraphOptions
from .graphs import (
    BATCH_AXIS,
    check_graph,
    check_spec,
    first_line,
    graph_input,
    load_graph,
    opset_of,
    random_batch,
    save_graph,
)
from .passes.base import GraphPass, apply_passes
from .passes.declare_shapes import DeclareShapes
from .passes.embed_spec import EmbedSpec
from .passes.fix_resize_scales import FixResizeScales
from .passes.lower_opset import OPSET, LowerOpset
from .passes.name_nodes import NameNodes
from .passes.raise_opset import RaiseOpset, check_opset
from .passes.simplify import Simplify
from .passes.strip_metadata import StripMetadata
from .rewrite import rewrites

if TYPE_CHECKING:
    import onnx_ir
    from torch import nn  # an ONNX file is prepared without it

_EXPORTER_OPSET = 18  # the oldest that torch's exporter writes; LowerOpset goes on from there
_BATCH = 2  # torch.export would take a batch of 0 or 1 for a constant


@large_blocks_returned()
def export_onnx(
    model: "nn.Module",
    spec: ModelSpec,
    path: Path,
    progress: Progress = SILENT,
    options: GraphOptions = PLAIN,
) -> None:
    """Write ``model`` in eval mode as ONNX to ``path``.

    The graph takes float32 (n, 3, H, W) by ``spec.input_name`` and gives the outputs of
    ``spec.output_names``, in opset 17, simplified, batch norms folded, nodes named after their modules,
    without traces of the machine, the spec inside, rewritten as ``options`` say. The same weights give the
    same bytes.

    Raises GraphError when torch cannot export the model, when it does not fit the spec, or when a pass
    would change its outputs; OutputError when ``path`` cannot be written.
    """
    with progress.task(f"export {spec.name}", 1.0) as task:
        batch = random_batch(spec, _BATCH)
        passes = [
            *(NameNodes(), FixResizeScales(), Simplify(), LowerOpset()),
            *rewrites(options, progress.note),
            *_finishing(spec),
        ]
        graph = apply_passes(_checked_graph(model, spec, task), passes, batch, in_place=True)
        if opset_of(graph) != OPSET:
            raise GraphError(f"{spec.name}: the graph came out in opset {opset_of(graph)}, not {OPSET}")
        save_graph(graph, path)


def prepare_onnx(
    source: Path, spec: ModelSpec, path: Path, progress: Progress = SILENT, options: GraphOptions = PLAIN
) -> None:
    """Write somebody's ONNX file to ``path`` as ``export_onnx`` would have written it.

    Opsets 13 to 21 are kept, older ones brought to 13. Outputs other than ``spec.output_names`` are removed,
    a fixed batch axis is freed where the graph allows it. The result is proven to compute what ``source``
    computes, on random input.

    Raises GraphError when ``source`` cannot be used, contradicts ``spec``, or a pass would change its
    outputs; OutputError when ``path`` cannot be written.
    """
    with progress.task(f"prepare {spec.name}", 1.0) as task:
        graph = load_graph(source)
        check_opset(graph, str(source))
        check_spec(graph, spec, str(source))
        if graph_input(graph, str(source)).type.tensor_type.elem_type != TensorProto.FLOAT:
            raise GraphError(
                f"{source}: the input is float16; give the float32 model, from which variants are made"
            )
        passes = [
            *(NameNodes(), RaiseOpset(), DeclareShapes(spec), FixResizeScales(), Simplify()),
            *rewrites(options, progress.note),
            *_finishing(spec),
        ]
        graph = apply_passes(graph, passes, random_batch(spec, _BATCH), task)
        save_graph(graph, path)


def _finishing(spec: ModelSpec) -> Sequence[GraphPass]:
    return [DeclareShapes(spec), StripMetadata(spec.name), EmbedSpec(spec)]


def _checked_graph(model: "nn.Module", spec: ModelSpec, task: Task) -> ModelProto:
    graph = _from_torch(model, spec)
    task.update(0.5, 1.0)
    check_graph(graph, spec.name)
    check_spec(graph, spec, spec.name)
    return graph


def _from_torch(model: "nn.Module", spec: ModelSpec) -> ModelProto:
    """The graph as torch's exporter gives it.

    The exporter that is built on torch.export (dynamo=True) is used. For RSN-18 it takes 12 s where the
    TorchScript one takes 3 s. But it keeps the names of the state dict and says which module each node came
    from, where the other renames folded weights to counters and loses the modules that are not called by
    their parents (``head.`` in RSN); its graph is smaller (299 nodes against 379, 299 against 303 after
    simplification) and knows its output shape; it folds ConvTranspose and batch norm; and the other one is
    deprecated. Both are right for every batch size.
    """
    import torch

    network = _on_cpu(model)
    example = torch.from_numpy(random_batch(spec, _BATCH))
    axes = ({0: torch.export.Dim(BATCH_AXIS, min=1)},)
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=_EXPORTER_OPSET,
                input_names=[spec.input_name],
                output_names=list(spec.output_names),
                dynamic_shapes=axes,
                optimize=False,
                verbose=False,
            )
        except Exception as error:  # whatever the model's forward or the exporter raises
            reason = _innermost(error)
            if isinstance(reason, KeyboardInterrupt):  # which the exporter takes for a failure of the model
                raise KeyboardInterrupt from error
            raise GraphError(
                f"{spec.name}: torch cannot export the model: {type(reason).__name__}: {first_line(reason)}. "
                "Change the network's forward so that torch.export takes it"
            ) from error
    if program is None:
        raise GraphError(f"{spec.name}: torch's exporter gave no graph")
    _fold_batch_norms(program.model)
    graph: ModelProto = program.model_proto
    del program
    gc.collect()  # the exporter's objects hold the weights once more, in cycles
    return graph


def _fold_batch_norms(model: "onnx_ir.Model") -> None:
    """What is needed of the exporter's own optimisation, which tries some forty rules on every node.

    torch writes a convolution without a bias with one of computed zeros, and a batch norm behind it. Zeros
    are folded and removed, the batch norm goes into weights and a new bias; onnxslim does the rest later.
    Of ResNeSt-200's export that saves a fifth.
    """
    from onnx_ir.passes import common
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules import common as rules

    common.InlinePass()(model)
    optimizer.fold_constants(model)
    common.RemoveUnusedNodesPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for rule in (
        rules.remove_optional_bias_from_conv_rule,
        rules.remove_optional_bias_from_conv_transpose_rule,
        rules.fuse_batchnorm_into_conv_rule,
        rules.fuse_batchnorm_into_conv_transpose_rule,
    ):
        rewriter.rewrite(model, [rule])
    common.CommonSubexpressionEliminationPass()(model)


def _on_cpu(model: "nn.Module") -> "nn.Module":
    """``model`` in eval mode as float32 on the CPU; a copy unless it is that already."""
    import torch

    tensors = (*model.parameters(), *model.buffers())
    right = all(t.device.type == "cpu" and t.dtype in (torch.float32, torch.int64) for t in tensors)
    if right and not model.training:
        return model
    return copy.deepcopy(model).to("cpu", torch.float32).eval()


def _innermost(error: BaseException) -> BaseException:
    """What went wrong first: the exporter wraps it into advice of its own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's deprecations and its notes on packages that are not installed off the screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
