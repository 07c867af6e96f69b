// The second part of the stand-in driver: modules, launches, captures and graphs. Included by fake_libcuda.cpp.
#pragma once

extern "C" {
int cuModuleLoadData(Module **module, const void *image) {
    ENTER(cuModuleLoadData);
    NOT_IN_CAPTURE;
    if (*static_cast<const char *>(image) == 0) return INVALID_IMAGE;
    return *module = remember(device().modules, new Module), SUCCESS;
}
int cuModuleLoadDataEx(Module **module, const void *image, unsigned, void *, void **) {
    return cuModuleLoadData(module, image);
}
int cuModuleUnload(Module *module) {
    ENTER(cuModuleUnload);
    return forget<Module>(device().modules, module);
}
int cuModuleGetFunction(Kernel **kernel, Module *module, const char *name) {
    ENTER(cuModuleGetFunction);
    LOCK;
    if (!device().modules.count(module)) return INVALID_HANDLE;
    auto found = device().kernels.find(name);
    if (found != device().kernels.end()) return *kernel = &found->second, SUCCESS;
    std::string paths = getenv("FAKE_CUDA_KERNELS") ? getenv("FAKE_CUDA_KERNELS") : "";
    for (size_t start = 0, end; start < paths.size(); start = end + 1) {
        end = std::min(paths.find(':', start), paths.size());
        void *library = dlopen(paths.substr(start, end - start).c_str(), RTLD_NOW);
        if (!library) return INVALID_IMAGE;
        auto symbol = [&](const char *prefix) { return dlsym(library, (prefix + std::string(name)).c_str()); };
        if (!symbol("fake_run_")) continue;
        using Sizes = const size_t *();
        device().kernels[name] = {
            reinterpret_cast<void (*)(const unsigned *, const unsigned *, void **)>(symbol("fake_run_")),
            reinterpret_cast<Sizes *>(symbol("fake_sizes_"))(),
            reinterpret_cast<Sizes *>(symbol("fake_alignments_"))()};
        return *kernel = &device().kernels[name], SUCCESS;
    }
    return NOT_FOUND;
}
int cuLaunchKernel(Kernel *kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned, Stream *stream, void **parameters, void **extra) {
    ENTER(cuLaunchKernel);
    if (!gx || !gy || !gz || !bx || !by || !bz || bx * by * bz > 1024) return INVALID_VALUE;
    // the arguments are copied now: the caller's memory may go once the call returns
    std::vector<std::vector<char>> copies;
    const char *packed = extra ? static_cast<const char *>(extra[1]) : nullptr;  // CU_LAUNCH_PARAM_BUFFER_POINTER
    size_t offset = 0;
    for (int i = 0; kernel->sizes[i]; ++i) {
        offset = (offset + kernel->alignments[i] - 1) / kernel->alignments[i] * kernel->alignments[i];
        const char *from = packed ? packed + offset : static_cast<const char *>(parameters[i]);
        copies.emplace_back(from, from + kernel->sizes[i]);
        offset += kernel->sizes[i];
    }
    if (packed && *static_cast<size_t *>(extra[3]) != offset) return INVALID_VALUE;
    return submit(stream, [=]() mutable {
        std::vector<void *> arguments;
        for (auto &argument : copies) arguments.push_back(argument.data());
        const unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
        kernel->run(grid, block, arguments.data());
    });
}
int cuLaunchHostFunc(Stream *stream, void (*function)(void *), void *data) {
    ENTER(cuLaunchHostFunc);
    return submit(stream, [=] { function(data); });
}

int cuStreamBeginCapture_v2(Stream *stream, int mode) {
    ENTER(cuStreamBeginCapture);
    LOCK;
    if (!stream || stream->capture) return CAPTURE_UNSUPPORTED;
    stream->capture = std::make_shared<Graph>();
    stream->mode = mode;
    return stream->thread = std::this_thread::get_id(), SUCCESS;
}
int cuStreamEndCapture(Stream *stream, Graph **graph) {
    ENTER(cuStreamEndCapture);
    LOCK;
    if (!stream->capture) return CAPTURE_UNMATCHED;
    bool invalid = stream->invalid;
    *graph = invalid ? nullptr : remember(device().graphs, new Graph(*stream->capture));
    stream->capture = nullptr;
    stream->invalid = false;
    return invalid ? CAPTURE_INVALIDATED : SUCCESS;
}
int cuStreamIsCapturing(Stream *stream, int *status) {
    ENTER(cuStreamIsCapturing);
    return *status = !stream || !stream->capture ? 0 : stream->invalid ? 2 : 1, SUCCESS;
}
int cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long) {
    ENTER(cuGraphInstantiate);
    if (!device().graphs.count(graph)) return INVALID_VALUE;
    return *executable = remember(device().executables, new Graph(*graph)), SUCCESS;
}
int cuGraphLaunch(Graph *executable, Stream *stream) {
    ENTER(cuGraphLaunch);
    if (!device().executables.count(executable)) return INVALID_VALUE;
    return submit(stream, [=] { for (auto &node : executable->nodes) node(); });
}
int cuGraphDestroy(Graph *graph) {
    ENTER(cuGraphDestroy);
    return forget<Graph>(device().graphs, graph);
}
int cuGraphExecDestroy(Graph *executable) {
    ENTER(cuGraphExecDestroy);
    return forget<Graph>(device().executables, executable);
}
}
