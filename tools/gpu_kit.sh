#!/usr/bin/env bash
# Packs what a borrowed CUDA machine needs that can install nothing: posedge and its tests of the GPU, a bundle, wheels.
#
#   tools/gpu_kit.sh KIT.tar.gz BUNDLE [WHEEL ...]
#
# There:  tar xzf KIT.tar.gz && gpu_kit/run.sh
#
# The wheels are those that the machine lacks and Python 3.10 or later for it takes: cuda-bindings, nvidia-cuda-nvrtc,
# numpy, pytest; onnxruntime and opencv-python-headless to compare with the CPU; a TensorRT for the bundle's engines.
# A variant without an engine is built there. Without TensorRT, a torch that is there stands in for the network.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 KIT.tar.gz BUNDLE [WHEEL ...]" >&2
    exit 2
fi
kit=$1 bundle=$2
shift 2
if [ ! -f "$bundle/bundle.json" ]; then
    echo "error: $bundle is no bundle: it has no bundle.json. Make one with: posedge deploy" >&2
    exit 1
fi
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/gpu_kit/posedge" "$folder/gpu_kit/wheels"
git -C "$root" ls-files -z --cached --others --exclude-standard -- \
    '*.py' '*.cu' '*.hpp' '*.cpp' '*.typed' pyproject.toml |
    tar -C "$root" --null --files-from - -cf - | tar -C "$folder/gpu_kit/posedge" -xf -
cp -r "$bundle" "$folder/gpu_kit/bundle"
[ $# -eq 0 ] || cp -- "$@" "$folder/gpu_kit/wheels"
cat >"$folder/gpu_kit/run.sh" <<'RUN'
#!/usr/bin/env bash
# The tests marked gpu, then the benchmark, which gets the arguments. Writes gpu_tests.txt and gpu_figures.json.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
for wheel in wheels/*.whl; do  # a wheel is a zip file: no pip is needed
    [ ! -e "$wheel" ] || python3 -m zipfile -e "$wheel" site || exit 1
done
export PYTHONPATH="$PWD/site:$PWD${PYTHONPATH:+:$PYTHONPATH}" POSEDGE_TEST_BUNDLE="$PWD/bundle"
tests=posedge/tests/runtime/cuda
python3 -m pytest -q -rs -m gpu -p no:cacheprovider -o filterwarnings= --confcutdir="$tests" "$tests/gpu" 2>&1 |
    tee gpu_tests.txt
tested=$?
python3 -m posedge.benchmarks.gpu --bundle bundle --out gpu_figures.json "$@" || exit 1
exit "$tested"
RUN
chmod +x "$folder/gpu_kit/run.sh"
tar -C "$folder" -czf "$folder/kit" gpu_kit
mv "$folder/kit" "$kit"
echo "$kit: $(du -h "$kit" | cut -f1)"
